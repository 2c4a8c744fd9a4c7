# A second target on the same port says so and fails; SIGTERM ends the first one orderly, with its hosts connected.
# transport: tcp rdma
# target: may end
# connection: may be lost
target_stop
target_start
refuses "$KVOF_TARGET" --config "$config"
grep -q 4420 <<<"$output"
connect $kv --reconnect-delay=1
node $kv 1
pid=$(target_pid)
kill -TERM "$pid"
wait "$pid"
rm $target_pid_file
if target_logged panicked; then fail "the target panicked"; fi
