# A device of a 4+1 pool comes and goes under load (device-mapper flakey): every value stays right.
# limit: 240
# cpus: 2
# target: may end
# target-log: device failed|degraded
modprobe dm_flakey
failing_pool

# Up and down for a second each.
"$KVOF_GUEST" loop-io $ng --seconds 8 --threads 4 >$work/loop &
loop=$!
nap 1
dm_change disk0 "0 $sectors flakey ${loops[0]} 0 1 1"
wait $loop || { cat $work/loop; fail "loop-io while disk0 came and went"; }
cat $work/loop
json $work/loop '.interrupted == 0' '.errors == 0' '.wrong_bytes == 0' '.completed > 20'
"$KVOF_GUEST" kept $ng --keys 64 | tee $work/kept
json $work/kept '.right == 64'
target_logged disk0
disconnect_all
target_stop
