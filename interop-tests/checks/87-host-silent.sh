# A host whose packets stop arriving: the target gives it up when its keep alive expires, and takes it back later.
# transport: tcp rdma
# limit: 60
# connection: may be lost
target_start
connect $kv --keep-alive-tmo=2 --reconnect-delay=1
node $kv 1
case $transport in
    rdma) cable host1 down ;;
    tcp)
        touch $work/rules
        nft -f - <<'RULES'
add table inet silence
add chain inet silence input { type filter hook input priority 0; }
add rule inet silence input tcp dport 4420 drop
RULES
        ;;
esac
wait_for 12 target_logged '[kK]eep.[aA]live'
case $transport in
    rdma) cable host1 up ;;
    tcp) nft flush ruleset ;;
esac
wait_for 30 state_is $ctrl live
node $kv 1
"$KVOF_GUEST" loop-io /dev/ng$node --seconds 1 | tee $work/loop
json $work/loop '.interrupted == 0'
