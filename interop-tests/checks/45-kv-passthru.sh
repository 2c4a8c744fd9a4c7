# Store, Retrieve, Exist, List and Delete as a person would send them, by nvme io-passthru to /dev/ngXnY.
target_start
connect $kv
node $kv 1
ng=/dev/ng$node

send() { nvme io-passthru $ng -n 1 "$@" 2>&1; }
printf 'a value of 64 bytes, which is what the documentation shows 1234\n' >$work/value
expect "size of the value" "$(stat -c %s $work/value)" 64

# "BBBB"
send --opcode=0x14 --cdw11=4 --cdw2=0x42424242 | grep -i '(0x\(4\|6\)\?0*87)' || fail "Exist of a missing key"
send --opcode=0x01 --cdw10=64 --cdw11=4 --cdw2=0x42424242 -l 64 -w -i $work/value
send --opcode=0x14 --cdw11=4 --cdw2=0x42424242
# Only if it does not exist, with the 16-byte key that differs in its last byte.
send --opcode=0x01 --cdw10=64 --cdw11=0x204 --cdw2=0x42424242 -l 64 -w -i $work/value | grep -i '89)' || fail "Store of a key that exists, with SINKE"
send --opcode=0x01 --cdw10=64 --cdw11=0x210 --cdw2=0x42424242 --cdw15=0x01000000 -l 64 -w -i $work/value

nvme io-passthru $ng -n 1 --opcode=0x02 --cdw10=4096 --cdw11=4 --cdw2=0x42424242 -l 4096 -r -b >$work/read 2>$work/result
grep -i 'result: 0x00000040' $work/result
cmp -n 64 $work/value $work/read

nvme io-passthru $ng -n 1 --opcode=0x06 --cdw10=4096 --cdw11=0 -l 4096 -r -b >$work/keys 2>$work/result
# NRK, then per key its length, its bytes and padding to 4 bytes.
expect "keys listed" "$(od -An -v -tx1 -N32 $work/keys | tr -d ' \n')" \
    0200000004004242424200001000424242420000000000000000000000010000

send --opcode=0x10 --cdw11=4 --cdw2=0x42424242
send --opcode=0x10 --cdw11=0x10 --cdw2=0x42424242 --cdw15=0x01000000
send --opcode=0x02 --cdw10=64 --cdw11=4 --cdw2=0x42424242 -l 64 -r -b | grep -ai '87)' || fail "Retrieve of a deleted key"

# Since 6.2 a process without privileges may send what the effects log names, if it may open the node.
if [[ $(uname -r) != 6.1.* ]]; then
    chmod 666 $ng
    cp $work/value /tmp/value
    setpriv --reuid=65534 --clear-groups --inh-caps=-all nvme io-passthru $ng -n 1 --opcode=0x01 --cdw10=64 --cdw11=1 --cdw2=0x61 -l 64 -w -i /tmp/value
    setpriv --reuid=65534 --clear-groups --inh-caps=-all nvme io-passthru $ng -n 1 --opcode=0x14 --cdw11=1 --cdw2=0x61
    setpriv --reuid=65534 --clear-groups --inh-caps=-all nvme io-passthru $ng -n 1 --opcode=0x10 --cdw11=1 --cdw2=0x61
fi
