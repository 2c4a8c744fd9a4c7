# A second target on the same port says so and fails; SIGTERM ends the first one orderly, with its hosts connected.
# target: may end
# kernel-log: Property Set error|starting error recovery|failed to (connect socket|send request)|Failed reconnect attempt|Reconnecting in|failed nvme_keep_alive|timed out|abort
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
