# A host whose packets stop arriving: the target gives it up when its keep alive expires, and takes it back later.
# limit: 60
# kernel-log: Property Set error|failed nvme_keep_alive|starting error recovery|imeout|timed out|failed to (connect socket|send request)|Failed reconnect attempt|Reconnecting in|Connect command failed|failed to connect queue|abort
target_start
connect $kv --keep-alive-tmo=2 --reconnect-delay=1
node $kv 1
touch $work/rules
nft -f - <<'RULES'
add table inet silence
add chain inet silence input { type filter hook input priority 0; }
add rule inet silence input tcp dport 4420 drop
RULES
wait_for 12 target_logged '[kK]eep.[aA]live'
nft flush ruleset
wait_for 30 state_is $ctrl live
node $kv 1
"$KVOF_GUEST" loop-io /dev/ng$node --seconds 1 | tee $work/loop
json $work/loop '.interrupted == 0'
