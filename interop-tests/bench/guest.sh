#!/bin/bash
# guest.sh ROUNDS MILLISECONDS: runs inside the test guest and prints a line of JSON per measurement. The kernel's NVMe/TCP host reads and
# writes, in turns, a memory namespace of kvof-target and a ramdisk (brd) behind the kernel's own target; then kvof-guest retrieves and
# stores values through the kernel's passthrough. KVOF_TARGET and KVOF_GUEST name the programs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rounds=$1
milliseconds=$2
work=$(mktemp -d)
. "$here/nvmet.sh"
# Blocks or value bytes, and commands in flight.
shapes=(4096:1 4096:32 131072:8 2097152:4)
KVOF=nqn.2026-01.org.example:bench

modprobe nvme_tcp
nvmet_serve tcp 127.0.0.1 4421
serve "${BENCH_TARGET_CONFIG:-$here/guest.toml}"
nvme connect -t tcp -a 127.0.0.1 -s 4420 -n "$KVOF" >/dev/null
nvme connect -t tcp -a 127.0.0.1 -s 4421 -n "$nvmet_nqn" >/dev/null

# node NQN NSID: the end of the names nvmeXnY and ngXnY.
node() {
    local dir disk
    for dir in /sys/class/nvme-subsystem/nvme-subsys*; do
        grep -qxF "$1" "$dir/subsysnqn" 2>/dev/null || continue
        for disk in "$dir"/nvme*n*/nsid "$dir"/nvme*/nvme*n*/nsid; do
            [[ $disk =~ /nvme([0-9]+n[0-9]+)/nsid$ && "$(<"$disk")" = "$2" ]] && echo "${BASH_REMATCH[1]}" && return
        done
    done
}
kv= block= ram=
for (( tries = 0; tries < 50; tries++ )); do
    block=$(node "$KVOF" 1) kv=$(node "$KVOF" 2) ram=$(node "$nvmet_nqn" 1)
    [ -n "$kv" ] && [ -b "/dev/nvme$block" ] && [ -c "/dev/ng$kv" ] && [ -b "/dev/nvme$ram" ] && break
    sleep 0.1
done

# What was never written has no memory of its own, and is read from the processor's cache.
for disk in "$block" "$ram"; do dd if=/dev/zero of="/dev/nvme$disk" bs=1M count=128 oflag=direct status=none; done

# One fio a round, because starting a program takes long here; its jobs run one after the other, first one target, then the other.
{
    printf '[global]\nioengine=libaio\ndirect=1\nthread=1\nnorandommap=1\nrandrepeat=0\ntime_based=1\nlat_percentiles=1\nclat_percentiles=0\nruntime=%dms\nramp_time=200ms\n' "$milliseconds"
    for shape in "${shapes[@]}"; do
        for rw in read write; do
            for peer in kvof nvmet; do
                disk=$block
                [ $peer = kvof ] || disk=$ram
                printf '[%s:%s:%s]\nstonewall=1\nfilename=/dev/nvme%s\nrw=rand%s\nbs=%d\niodepth=%d\n' \
                    $peer $rw "$shape" "$disk" $rw "${shape%:*}" "${shape#*:}"
            done
        done
    done
} >"$work/jobs"

sizes= depths=
for shape in "${shapes[@]}"; do sizes+=,${shape%:*} depths+=,${shape#*:}; done
for (( round = 1; round <= rounds; round++ )); do
    fio --output-format=json --output="$work/fio" "$work/jobs"
    jq -c --argjson round "$round" '.jobs[] | (.jobname | split(":")) as [$target, $op, $size, $depth] | .[$op] as $f | {
        where: "guest", round: $round, host: "linux", target: $target, op: $op, size: ($size | tonumber), depth: ($depth | tonumber),
        digests: false, ops: $f.iops, p50_us: (($f.lat_ns.percentile["50.000000"] // 0) / 1000), errors: .error }' "$work/fio"
    "$KVOF_GUEST" bench "/dev/ng$kv" --sizes "${sizes#,}" --depths "${depths#,}" --milliseconds "$milliseconds" >"$work/kv"
    jq -c --argjson round "$round" '{ where: "guest", round: $round, host: "linux", target: "kvof", op, size, depth, digests: false,
        ops: .operations_per_second, p50_us: (.p50_ns / 1000), errors: 0 }' "$work/kv"
done
# A target that complained was not measured at its best.
if grep -E 'ERROR|WARN|panicked' "$work/log"; then exit 1; fi
