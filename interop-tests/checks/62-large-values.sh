# Values of 16, 24 and 128 MiB by the host library over RDMA: longer than one keyed descriptor can say, and in many READs and WRITEs.
# transport: rdma
# limit: 180
# cpus: 2
# target: may end
own_config
cat >>$config <<'TOML'
[reactor]
# As on a machine with processors to spare: with nothing to do it spins before it sleeps.
busy_poll = "2ms"
# Two commands of the largest transfer for each core, of which there is one.
cores = [0]
memory = "256MiB"

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
for size in 16777215 16777216 25000001 134217728; do
    echo "== $size"
    head -c $size /dev/urandom >$work/part
    "$KVOF" store $target --nqn nqn.2026-01.org.example:large big --file $work/part
    "$KVOF" retrieve $target --nqn nqn.2026-01.org.example:large big --output $work/read
    cmp $work/part $work/read
    rm $work/read $work/part
done
target_stop
