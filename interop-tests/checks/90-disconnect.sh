# A host that disconnects leaves nothing in the target: no connection, no descriptor, no controller (their number is limited).
# transport: tcp rdma
# limit: 90
target_start
open_files() { local files=("/proc/$(target_pid)/fd/"*); echo ${#files[@]}; }
case $transport in
    tcp) connections() { awk '$4 == "01" && $2 ~ /:1144$/' /proc/net/tcp /proc/net/tcp6 | wc -l; } ;;
    rdma)
        # The first connection makes what the target then keeps for its device.
        connect $kv --nr-io-queues=1
        disconnect_all
        ;;
esac
settled() { [ "$(connections)" = 0 ] && [ "$(open_files)" = "$before" ]; }
# Hosts that checks before this one have cut off are given up by their keep alive.
wait_for 40 unconnected
before=$(open_files)
limit=$(sed -n 's/^controllers = //p' "$config")
for (( i = 0; i <= limit; i++ )); do
    connect $kv --nr-io-queues=1
    # The last one's may still be on their way out.
    wait_for 5 one_host
    nvme disconnect -n $kv
done
wait_for 5 settled
