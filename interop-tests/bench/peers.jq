# { machine, lines } of tools/bench-peers to a summary: medians with their spread, and ratios as the median of the ratios of each round, beside
# the goal. { machine, results: [...], ratios: [...], measurements: [...] }

include "common";

def is(target; host): .target == target and .host == host;
def perf(target): is(target; "spdk_nvme_perf");
def ours(target): is(target; "kvof bench");
def bench: is("kvof wide"; "kvof bench") and (.workload | startswith("kv"));
def shape: [.op, .size, .depth, .digests];

# ratios(group; goal; top; bottom; per): top and bottom select measurements, `per` is what they have in common besides the round; the goal is of the
# measurement on top, null where there is none.
def ratios(group; goal; top; bottom; per):
    map(select(top)) as $tops | map(select(bottom)) as $bottoms
    | [ $tops[] as $top | ($top | per) as $common | $bottoms[] | select(.round == $top.round and per == $common)
        | { of: ($top | { op, size, depth, digests }), beside: .op, ratio: ($top.bytes_per_second / .bytes_per_second), goal: ($top | goal) } ]
    | group_by([.of, .beside])
    | map(.[0] as $first | spread(.ratio) as $ratio
        | $first.of + { group: group, beside: $first.beside, rounds: length, ratio: $ratio, goal: $first.goal,
            met: (if $first.goal then $ratio.median >= $first.goal else null end) });

# Over SPDK's malloc bdev, digests off or on.
def over_malloc:
    if .size == 4096 and .depth == 1 then 1.4 elif .size == 4096 and .op == "read" then 2.0 elif .size == 4096 then 1.8
    elif .size == 131072 then 1.35 else 1.6 end;
def over_null: if .size == 4096 and .depth > 1 and .op == "read" then 1.3 else null end;
def for_long(goal): if .size == 1048576 then goal else null end;

.machine as $machine | .lines as $lines | $lines
| {
    machine: $machine,
    results: (group_by([.target, .host] + shape) | map((.[0] | { target, host, op, size, depth, digests }) + {
        rounds: length, ops: spread(.ops), bytes_per_second: spread(.bytes_per_second), average_us: spread(.average_us), p50_us: spread(.p50_us) })),
    ratios: [
        ratios("kvof / SPDK malloc"; over_malloc; perf("kvof"); perf("SPDK malloc"); shape),
        ratios("kvof / SPDK null"; over_null; perf("kvof"); perf("SPDK null"); shape),
        ratios("kvof / SPDK malloc by kvof bench"; over_malloc; ours("kvof"); ours("SPDK malloc"); shape),
        ratios("kvof / SPDK null by kvof bench"; over_null; ours("kvof"); ours("SPDK null"); shape),
        ratios("KV / NVM"; for_long(0.9); bench and (.op | IN("retrieve", "store")); bench and (.op | IN("read", "write"));
            [.workload, .size, .depth]),
        ratios("KV / SPDK malloc"; null; bench and (.op | IN("retrieve", "store")); perf("SPDK malloc") and (.digests | not);
            [.size, .depth, (.op | IN("retrieve", "read"))]),
        ratios("kvof bench / spdk_nvme_perf"; 1.0; bench; perf("kvof wide"); shape),
        ratios("KV / iperf3"; for_long(0.85); bench and (.op | IN("retrieve", "store")) and .depth > 1; .host == "iperf3";
            [.size, (.op | IN("retrieve", "from target"))]),
        ratios("KV of one value / iperf3"; null; .target == "kvof wide, one value"; .host == "iperf3";
            [.size, (.op | IN("retrieve", "from target"))]),
        ratios("KV / Redis"; null; .host == "kvof bench" and (.workload | startswith("redis")); .host == "redis-benchmark"; [.workload, .op])
    ] | add,
    measurements: $lines
}
