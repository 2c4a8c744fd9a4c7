# Store, Retrieve, Exist, List and Delete as a person would send them, by nvme io-passthru to /dev/ngXnY.
# transport: tcp rdma
target_start
connect $kv
node $kv 1
ng=/dev/ng$node

send() { nvme io-passthru $ng -n 1 "$@" 2>&1; }
# fails_with STATUS COMMAND...: in hexadecimal, without the Do Not Retry bit, which is due too.
fails_with() {
    local status=$1; shift
    refuses "$@" | grep -ai "(0x40$status)" || fail "wanted status $status and Do Not Retry"
}
printf 'a value of 64 bytes, which is what the documentation shows 1234\n' >$work/value
expect "size of the value" "$(stat -c %s $work/value)" 64

# "BBBB"
fails_with 87 send --opcode=0x14 --cdw11=4 --cdw2=0x42424242
send --opcode=0x01 --cdw10=64 --cdw11=4 --cdw2=0x42424242 -l 64 -w -i $work/value
send --opcode=0x14 --cdw11=4 --cdw2=0x42424242
# Only if it does not exist, with the 16-byte key that differs in its last byte.
fails_with 89 send --opcode=0x01 --cdw10=64 --cdw11=0x204 --cdw2=0x42424242 -l 64 -w -i $work/value
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
fails_with 87 send --opcode=0x02 --cdw10=64 --cdw11=4 --cdw2=0x42424242 -l 64 -r -b

# Since 6.2 a process without privileges may send what the effects log names, if it has the node open for writing where the command
# changes something (nvme-cli has not).
if [[ $(uname -r) != 6.1.* ]]; then
    chmod 666 $ng
    cp "$KVOF_GUEST" /tmp/kvof-guest
    nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"; }
    nobody /tmp/kvof-guest loop-io $ng --seconds 1 --keys 3 >$work/loop
    json $work/loop '.interrupted == 0'
    refuses nobody nvme io-passthru $ng -n 1 --opcode=0x10 --cdw11=1 --cdw2=0x61
fi
