# A target that stops answering: the kernel notices by keep alive, gives the connection up, and comes back when the target does.
# limit: 60
# kernel-log: Property Set error|failed nvme_keep_alive|starting error recovery|imeout|timed out|failed to (connect socket|send request)|Failed reconnect attempt|Reconnecting in|Connect command failed|failed to connect queue|abort
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
