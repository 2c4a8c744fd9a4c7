#!/bin/bash
# flame.sh SECONDS OPTION...: runs inside the test guest and prints, as `perf script` does, what the target's threads did while `kvof bench OPTION...`
# kept them at work by NVMe/RDMA over Soft-RoCE. KVOF_TARGET and KVOF name the programs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
seconds=$1
shift
work=$(mktemp -d)
. "$here/nvmet.sh"
. "$here/../checks/lib/rdma.sh"
exec 3>&1 >"$work/said" 2>&1
trap 'cat "$work/said" "$work/log" >&3' ERR
rdma_up
serve "$here/rdma.toml"
"$KVOF" bench "rdma://$port_address:4420" --nqn nqn.2026-01.org.example:bench "$@" --time $((seconds + 8))s --warmup 100ms &
host=$!
sleep 5
# The stacks that are copied are short: the emulator copies them slowly, and the way from the loop to a system call is.
perf record --quiet --event cpu-clock --freq 997 --call-graph dwarf,4096 --pid "$target_pid" --output "$work/perf" -- sleep "$seconds"
wait $host
perf script --no-inline --input "$work/perf" >&3
