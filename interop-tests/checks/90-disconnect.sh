# A host that disconnects leaves nothing in the target: no connection, no descriptor, no controller (their number is limited).
target_start
open_files() { local files=("/proc/$(target_pid)/fd/"*); echo ${#files[@]}; }
connections() { awk '$4 == "01" && $2 ~ /:1144$/' /proc/net/tcp /proc/net/tcp6 | wc -l; }
settled() { [ "$(connections)" = 0 ] && [ "$(open_files)" = "$before" ]; }
before=$(open_files)
expect "connections at first" "$(connections)" 0
limit=$(sed -n 's/^controllers = //p' "$config")
for (( i = 0; i <= limit; i++ )); do
    connect $kv --nr-io-queues=1
    [ "$(connections)" = 2 ]
    nvme disconnect -n $kv
done
wait_for 5 settled
