# A namespace that is added while the target serves appears at a connected host by itself, and goes when it is removed.
# transport: tcp rdma
target_start
connect $private --hostnqn=$host_a --hostid=$hostid_a
node $private 1
cp $config $work/before.toml
cat >>$config <<'TOML'

[[subsystem.namespace]]
nsid = 3
kind = "kv"
storage = "/tmp/kvof/added.kv"
size = "16MiB"
max_value_size = "4KiB"
TOML
kill -HUP "$(target_pid)"
wait_for 10 find_node $private 3
"$KVOF_GUEST" loop-io /dev/ng$node --seconds 1 --size 4000 >$work/loop
json $work/loop '.interrupted == 0'
cp $work/before.toml $config
kill -HUP "$(target_pid)"
gone() { ! find_node $private 3; }
wait_for 10 gone
find_node $private 1
