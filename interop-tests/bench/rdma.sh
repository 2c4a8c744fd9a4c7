#!/bin/bash
# rdma.sh ROUNDS MILLISECONDS: runs inside the test guest and prints a line of JSON per measurement. The kernel's host reads and writes, in
# turns, the same memory namespace of kvof-target by NVMe/RDMA and by NVMe/TCP, and a ramdisk (brd) behind the kernel's own nvmet-rdma; all
# of it over the same veth pairs, RDMA by Soft-RoCE. Then `kvof bench` does so over both transports. KVOF_TARGET and KVOF name the programs.
#
# CPU seconds per GB are given twice. `target_cpu` is the target's own: of kvof-target all its threads, system calls included; of nvmet the
# kernel threads that its completion queues run on (kworker/N:MH, which do nothing else here; the host's run in softirqs). Packets are handled
# by softirqs and other kernel threads, and count for neither: with a network card that has RDMA nobody pays for them. (NVMe/TCP pays for the
# copies and packets of its system calls.) `machine_cpu` is all that the whole guest did, host and packets included.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rounds=$1
milliseconds=$2
work=$(mktemp -d)
. "$here/nvmet.sh"
. "$here/../checks/lib/rdma.sh"
# Bytes, and commands in flight.
shapes=(4096:1 4096:32 131072:8 1048576:4)
nqn=nqn.2026-01.org.example:bench

# A disk for each connection, though two of them lead to one namespace.
modprobe nvme_core multipath=N
modprobe nvme_tcp
rdma_up
nvmet_serve rdma "$port_address" 4421
serve "$here/rdma.toml"

# disk NQN TRANSPORT PORT: $disk is the node of the block device by this connection. The kernel looks at namespaces side by side and numbers
# the nodes as it comes to them: only the identifier tells which is which.
disk() {
    local answer tries sys
    answer=$(nvme connect -o json -t "$2" -a "$port_address" -s "$3" -n "$1")
    [[ $answer =~ nvme[0-9]+ ]]
    for (( tries = 0; tries < 100; tries++ )); do
        for sys in /sys/class/block/"${BASH_REMATCH[0]}"n*/nsid; do
            [ -e "$sys" ] && [ "$(<"$sys")" = 1 ] || continue
            sys=${sys%/nsid} disk=/dev/${sys##*/}
            [ ! -b "$disk" ] || return 0
        done
        sleep 0.1
    done
    return 1
}
declare -A disks
disk $nqn rdma 4420
disks[kvof]=$disk
disk "$nvmet_nqn" rdma 4421
disks[nvmet]=$disk
disk $nqn tcp 4420
disks["kvof tcp"]=$disk

# What was never written has no memory of its own, and is read from the processor's cache.
for disk in "${disks[kvof]}" "${disks[nvmet]}"; do dd if=/dev/zero of="$disk" bs=1M count=128 oflag=direct status=none; done

# cpu_of TARGET: nanoseconds that it has run.
cpu_of() {
    local files
    case $1 in
        kvof*) files=("/proc/$target_pid/task/"*/schedstat) ;;
        nvmet) mapfile -t files < <(grep -lE '^kworker/[0-9]+:[0-9]+H' /proc/[0-9]*/comm 2>/dev/null | sed 's/comm$/schedstat/') ;;
    esac
    awk '{ sum += $1 } END { printf "%.0f", sum }' "${files[@]}"
}

# cpu_of_machine: nanoseconds in which any of its processors did anything.
cpu_of_machine() { awk '/^cpu / { printf "%.0f", ($2 + $3 + $4 + $7 + $8) * 10000000; exit }' /proc/stat; }

# measured TARGET COMMAND...: $target_cpu and $machine_cpu are what it took, nanoseconds.
measured() {
    local target=$1 before machine_before
    shift
    before=$(cpu_of "$target") machine_before=$(cpu_of_machine)
    "$@"
    target_cpu=$(( $(cpu_of "$target") - before )) machine_cpu=$(( $(cpu_of_machine) - machine_before ))
}

for (( round = 1; round <= rounds; round++ )); do
    # Nobody is always first.
    order=(kvof nvmet "kvof tcp")
    (( round % 2 )) || order=("kvof tcp" nvmet kvof)
    for shape in "${shapes[@]}"; do
        size=${shape%:*} depth=${shape#*:}
        for op in read write; do
            for target in "${order[@]}"; do
                measured "$target" fio --name=x --ioengine=libaio --direct=1 --thread --norandommap --randrepeat=0 --time_based \
                    --lat_percentiles=1 --clat_percentiles=0 --runtime="${milliseconds}ms" --filename="${disks[$target]}" --rw=rand$op \
                    --bs="$size" --iodepth="$depth" --output-format=json --output="$work/fio"
                jq -c --argjson round "$round" --arg target "$target" --arg op $op --argjson size "$size" --argjson depth "$depth" \
                    --argjson target_cpu $target_cpu --argjson machine_cpu $machine_cpu '.jobs[0] as $job | $job[$op] as $f | {
                    where: "guest, RDMA", round: $round, host: "linux", target: $target, op: $op, size: $size, depth: $depth,
                    digests: false, ops: $f.iops, p50_us: (($f.lat_ns.percentile["50.000000"] // 0) / 1000), errors: $job.error,
                    target_cpu: ($target_cpu / $f.io_bytes), machine_cpu: ($machine_cpu / $f.io_bytes) }' "$work/fio"
            done
        done
    done
    for op in retrieve store; do
        for shape in "${shapes[@]:1}"; do
            size=${shape%:*} depth=${shape#*:}
            for transport in rdma tcp; do
                target=kvof
                [ $transport = rdma ] || target="kvof tcp"
                "$KVOF" bench "$transport://$port_address:4420" --nqn $nqn --nsid 2 --op $op --sizes "$size" --depth "$depth" \
                    --keys $((depth < 32 ? 32 : 1024)) --time "${milliseconds}ms" --warmup 100ms --json >"$work/kv"
                jq -c --argjson round "$round" --arg target "$target" '.results[] | { where: "guest, RDMA", round: $round, host: "kvof",
                    target: $target, op, size, depth, digests: false, ops: .operations_per_second, p50_us: (.latency_ns.p50 / 1000),
                    errors: (.errors + .wrong_values) }' "$work/kv"
            done
        done
    done
done
# A target that complained was not measured at its best.
if grep -E 'ERROR|WARN|panicked' "$work/log"; then exit 1; fi
