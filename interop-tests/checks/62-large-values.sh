# Values of 16, 24 and 128 MiB by the host library over RDMA: longer than one keyed descriptor can say, and in many READs and WRITEs.
# transport: rdma
# limit: 180
# target: may end
own_config
cat >>$config <<'TOML'
[reactor]
busy_poll = "0s"
memory = "320MiB"

[limits]
transfer = "128MiB"

[[subsystem]]
nqn = "nqn.2026-01.org.example:large"
allowed_hosts = "any"

[[subsystem.namespace]]
nsid = 1
kind = "kv"
storage = "memory"
size = "384MiB"
max_value_size = "128MiB"
TOML
target_stop
target_start
head -c 134217728 /dev/urandom >$work/value
for size in 16777215 16777216 25000001 134217728; do
    echo "== $size"
    head -c $size $work/value >$work/part
    "$KVOF" store $target --nqn nqn.2026-01.org.example:large big --file $work/part
    "$KVOF" retrieve $target --nqn nqn.2026-01.org.example:large big --output $work/read
    cmp $work/part $work/read
    rm $work/read
done
target_stop
rm $work/value $work/part
