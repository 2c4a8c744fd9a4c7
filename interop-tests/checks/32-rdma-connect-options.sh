# nvme connect by RDMA with every option it has there, moving values that go in a capsule, by one descriptor and by several pages.
# transport: rdma
# cpus: 2
target_start
for size in 100 4096 4097 70001; do head -c $size /dev/urandom >$work/value-$size; done

round_trip() {
    local size=$1
    nvme io-passthru "/dev/ng$node" --opcode=0x01 -n 1 --cdw2=0x31 --cdw11=1 --cdw10="$size" -l "$size" -w -i $work/value-$size 2>/dev/null
    nvme io-passthru "/dev/ng$node" --opcode=0x02 -n 1 --cdw2=0x31 --cdw11=1 --cdw10="$size" -l "$size" -r -b >"$work/read" 2>/dev/null
    cmp $work/value-$size "$work/read"
    nvme io-passthru "/dev/ng$node" --opcode=0x10 -n 1 --cdw2=0x31 --cdw11=1 2>/dev/null
}

try() {
    echo "== $*"
    connect $kv "$@"
    node $kv 1
    round_trip 100
    round_trip 4096
    round_trip 4097
    round_trip 70001
}

try --nr-io-queues=1
expect queue_count "$(<"/sys/class/nvme/$ctrl/queue_count")" 2
disconnect_all
try --queue-size=16 --disable-sqflow
expect sqsize "$(<"/sys/class/nvme/$ctrl/sqsize")" 15
disconnect_all
try --nr-io-queues=2 --nr-write-queues=1 --nr-poll-queues=1
expect queue_count "$(<"/sys/class/nvme/$ctrl/queue_count")" 5
disconnect_all
try -a $address6 --keep-alive-tmo=3
expect kato "$(<"/sys/class/nvme/$ctrl/kato")" 3
disconnect_all
# From the other host's address, with queues of the largest size that nvme-cli asks for.
try -w $host2_address --queue-size=128
grep -q "host_traddr=$host2_address" "/sys/class/nvme/$ctrl/address"
