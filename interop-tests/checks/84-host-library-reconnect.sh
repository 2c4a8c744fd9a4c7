# The target is killed and started again under I/O of the host library over RDMA: it reconnects by itself, and no byte is wrong.
# transport: rdma
# cpus: 2
# target: may end
# limit: 90
target_start
"$KVOF_GUEST" loop-io $target --nqn $kv --seconds 60 --until $work/enough --keep-alive 5 >$work/loop &
loop=$!
nap 2
target_stop KILL
nap 1
target_start
touch $work/enough
wait $loop || { cat $work/loop; fail "loop-io"; }
cat $work/loop
json $work/loop '.interrupted > 0' '.wrong_bytes == 0' '.completed > 20' '.longest_gap_ms < 10000'
"$KVOF_GUEST" loop-io $target --nqn $kv --seconds 1 | tee $work/loop
json $work/loop '.interrupted == 0'
