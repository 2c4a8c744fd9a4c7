# A target that stops answering: the kernel notices by keep alive, gives the connection up, and comes back when the target does.
# transport: tcp rdma
# limit: 60
# connection: may be lost
target_start
connect $kv --keep-alive-tmo=2 --reconnect-delay=1
node $kv 1
kill -STOP "$(target_pid)"
wait_for 15 state_is $ctrl connecting
kill -CONT "$(target_pid)"
wait_for 30 state_is $ctrl live
node $kv 1
"$KVOF_GUEST" loop-io /dev/ng$node --seconds 1 | tee $work/loop
json $work/loop '.interrupted == 0'
