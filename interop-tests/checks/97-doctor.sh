# `kvof doctor` on a machine whose RDMA is being set up, step by step: it names what is missing, and finds the way to a target.
# limit: 90
# target: may end
doctor() { "$KVOF" doctor --json "$@" >$work/doctor || code=$?; }
# finding LEVEL ABOUT [TEXT]: is there one?
finding() { jq -e --arg level "$1" --arg about "$2" --arg text "${3:-}" '[.. | objects | select(.level? == $level and (.about? // "" | contains($about)) and (tostring | contains($text)))] | length > 0' $work/doctor >/dev/null; }

modprobe crc32_generic
modprobe -a dummy rdma_rxe
modprobe -r rdma_ucm 2>/dev/null || true
ip link add rdma0 type dummy
ip link set rdma0 mtu 1500 up
rdma link add rxe0 type rxe netdev rdma0
code=0; doctor
expect "exit code without rdma_ucm" $code 1
finding problem rdma_ucm || { cat $work/doctor; fail "no problem about rdma_ucm"; }

modprobe -a rdma_ucm ib_uverbs
code=0; doctor
finding warning 'rxe0 port 1' 'no RoCE v2 GID' || { cat $work/doctor; fail "no warning about an address"; }
ip address add 10.8.2.1/24 dev rdma0
code=0; doctor
expect "exit code" $code 0
json $work/doctor '.rdma.devices[0].name == "rxe0"' '.rdma.devices[0].driver == "rdma_rxe"' '.rdma.devices[0].error == null' \
    '.rdma.devices[0].limits.memory_windows_2b' '.rdma.devices[0].registration_error == null' '.rdma.devices[0].window_error == null' \
    '.rdma.devices[0].ports[0] | .state == "ACTIVE" and .mtu == 1024 and .max_mtu == 4096' \
    '.rdma.devices[0].ports[0].gids | map(select(.type == "RoCE v2" and .address == "10.8.2.1")) | length == 1'
finding warning 'rxe0 port 1' '4200 gives 4096' || { cat $work/doctor; fail "no warning about the MTU"; }
ip link set rdma0 mtu 4200
code=0; doctor
json $work/doctor '.rdma.devices[0].ports[0].mtu == 4096'
if finding warning 'rxe0 port 1' '4200 gives 4096'; then fail "the MTU is right, and doctor warns of it"; fi

cp "$KVOF" /tmp/kvof-command
code=0; (ulimit -l 32; exec setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set=-all --inh-caps=-all /tmp/kvof-command doctor) >$work/doctor.txt 2>&1 || code=$?
expect "exit code with 32 KiB of locked memory" $code 1
grep -q 'not even 64 KiB of memory can be registered' $work/doctor.txt || { cat $work/doctor.txt; fail "nothing about locked memory"; }

code=0; "$KVOF" doctor rdma://10.8.2.1:4420 >$work/doctor.txt 2>&1 || code=$?
expect "exit code without a target" $code 5
grep FAILED $work/doctor.txt
cat >$work/own.toml <<TOML
[reactor]
busy_poll = "0s"
memory = "64MiB"

[limits]
transfer = "1MiB"

[[port]]
address = "rdma://10.8.2.1:4420"

$(sed -n '/^\[\[subsystem\]\]/,$p' "${BASH_SOURCE[0]%/*}/lib/target.toml")
TOML
config=$work/own.toml
target_stop
target_start
"$KVOF" doctor rdma://10.8.2.1:4420 | tee $work/doctor.txt
target_stop
rdma link del rxe0
ip link del rdma0
