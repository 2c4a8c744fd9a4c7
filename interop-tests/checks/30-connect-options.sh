# nvme connect with every transport option, moving a value that goes in a capsule and one that takes an R2T.
# cpus: 2
target_start
head -c 100 /dev/urandom >$work/small
head -c 70001 /dev/urandom >$work/large

round_trip() {
    local file=$1 size
    size=$(stat -c %s "$file")
    nvme io-passthru "/dev/ng$node" --opcode=0x01 -n 1 --cdw2=0x31 --cdw11=1 --cdw10="$size" -l "$size" -w -i "$file" 2>/dev/null
    nvme io-passthru "/dev/ng$node" --opcode=0x02 -n 1 --cdw2=0x31 --cdw11=1 --cdw10="$size" -l "$size" -r -b >"$work/read" 2>/dev/null
    cmp "$file" "$work/read"
    nvme io-passthru "/dev/ng$node" --opcode=0x10 -n 1 --cdw2=0x31 --cdw11=1 2>/dev/null
}

try() {
    echo "== $*"
    connect $kv "$@"
    node $kv 1
    round_trip $work/small
    round_trip $work/large
}

try --hdr-digest --nr-io-queues=1
expect queue_count "$(<"/sys/class/nvme/$ctrl/queue_count")" 2
disconnect_all
try --data-digest --disable-sqflow
disconnect_all
try --hdr-digest --data-digest --queue-size=16
expect sqsize "$(<"/sys/class/nvme/$ctrl/sqsize")" 15
disconnect_all
try --disable-sqflow --nr-io-queues=2 --nr-write-queues=1 --nr-poll-queues=1
expect queue_count "$(<"/sys/class/nvme/$ctrl/queue_count")" 5
disconnect_all
try -a ::1 --keep-alive-tmo=3
expect kato "$(<"/sys/class/nvme/$ctrl/kato")" 3
