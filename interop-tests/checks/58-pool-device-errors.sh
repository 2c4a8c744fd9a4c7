# Devices of a 4+1 pool fail under load (device-mapper: error): no host notices, the log and `kvof info` name the device. With two gone a
# Retrieve gives the right bytes or says Unrecovered Error, and nothing else.
# limit: 240
# cpus: 2
# target: may end
# target-log: device failed|a device of the pool is not there|takes no more changes|cannot be read|beyond repair|degraded
failing_pool

# One device refuses everything from one moment to the next.
"$KVOF_GUEST" loop-io $ng --seconds 8 --threads 4 >$work/loop &
loop=$!
nap 2
dm_change disk1 "0 $sectors error"
wait $loop || { cat $work/loop; fail "loop-io while disk1 failed"; }
cat $work/loop
json $work/loop '.interrupted == 0' '.errors == 0' '.wrong_bytes == 0' '.completed > 20'
target_logged 'device failed.* member=1 .*disk1'
"$KVOF_GUEST" kept $ng --keys 64 | tee $work/kept
json $work/kept '.right == 64'
"$KVOF" info 127.0.0.1:4420 --nqn $pool_subsystem | tee $work/info
grep -E 'disk1|failed|degraded' $work/info

# A second one: more than the parity can bear.
dm_change disk3 "0 $sectors error"
"$KVOF_GUEST" kept $ng --keys 64 | tee $work/kept
json $work/kept '.wrong == 0' '.right + (.statuses["88"] // 0) == 64' '.statuses["88"] > 0'
# Nothing more is acknowledged that could not be kept.
refuses "$KVOF_GUEST" keep $ng --keys 1
target_logged 'a read failed.* member=3 '
target_logged 'takes no more changes.*member 3: a write failed'

# It comes back with all that it had: nothing is lost.
disconnect_all
target_stop
dm_change disk3 "0 $sectors linear ${loops[3]} 0"
target_start
connect $pool_subsystem
node $pool_subsystem 1
"$KVOF_GUEST" kept /dev/ng$node --keys 64 | tee $work/kept
json $work/kept '.right == 64'
disconnect_all
target_stop
