# The target's RDMA device is taken away under I/O: the target ends those connections and goes on serving others; when device and target are
# back, hosts are too. (Soft-RoCE waits for every process that has a device open before it is really gone, so that the target has to end.)
# transport: rdma
# cpus: 2
# target: may end
# target-log: listen|device
# limit: 120
# connection: may be lost
target_start
connect $kv --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=3
node $kv 1
"$KVOF_GUEST" loop-io /dev/ng$node --seconds 90 --until $work/enough >$work/loop &
loop=$!
nap 2
rdma link del rxe-port1 &
removal=$!
wait_for 20 state_is $ctrl connecting
target_runs
# TCP goes on.
"$KVOF" info tcp://127.0.0.1:4420 --nqn $kv >/dev/null
target_stop
wait $removal
rdma link add rxe-port1 type rxe netdev port1
target_start
wait_for 20 state_is $ctrl live
touch $work/enough
wait $loop || { cat $work/loop; fail "loop-io"; }
cat $work/loop
json $work/loop '.interrupted > 0' '.wrong_bytes == 0' '.completed > 20'
"$KVOF_GUEST" loop-io $target --nqn $kv --seconds 1 | tee $work/loop
json $work/loop '.interrupted == 0'
