# Measurements (a JSON array of what tools/bench collected) to a summary: medians with their spread, and ratios as the median of the
# ratios of each round: of operations a second, and of the median latencies, which preemption by other programs hardly touches.
# {results: [...], ratios: [...], cpu: [...]}

include "common";

def cell: [.where, .target, .op, .size, .depth, .digests];

# ratios(what; top; bottom; depth_counts): top and bottom select measurements of the same round, place, size
# and, if depth_counts, depth.
def ratios(what; top; bottom; depth_counts):
    map(select(top)) as $tops | map(select(bottom)) as $bottoms
    | [ $tops[] as $t | $bottoms[]
        | select(.where == $t.where and .round == $t.round and .size == $t.size and (.depth == $t.depth or (depth_counts | not)))
        | { what: what, where, size, depth: $t.depth, ops: ($t.ops / .ops),
            p50: (if depth_counts and ($t.p50_us // 0) > 0 then .p50_us / $t.p50_us else null end) } ]
    | group_by([.where, .size, .depth])
    | map((.[0] | { what, where, size, depth }) + { rounds: length, ops: spread(.ops), p50: spread(.p50) });

def is(target; op; digests): .target == target and .op == op and .digests == digests;
def rdma: .where == "guest, RDMA";

{
    results: (group_by(cell) | map((.[0] | { where, target, host, op, size, depth, digests }) + {
        rounds: length, ops: spread(.ops), p50_us: spread(.p50_us), bytes_per_second: (.[0].size as $s | spread(.ops * $s)) })),
    ratios: [
        (ratios("read: kvof / nvmet"; .where == "guest" and is("kvof"; "read"; false); .where == "guest" and is("nvmet"; "read"; false); true)),
        (ratios("write: kvof / nvmet"; .where == "guest" and is("kvof"; "write"; false); .where == "guest" and is("nvmet"; "write"; false); true)),
        (ratios("RDMA read: kvof / nvmet"; rdma and is("kvof"; "read"; false); rdma and is("nvmet"; "read"; false); true)),
        (ratios("RDMA write: kvof / nvmet"; rdma and is("kvof"; "write"; false); rdma and is("nvmet"; "write"; false); true)),
        (ratios("read: RDMA / TCP"; rdma and is("kvof"; "read"; false); rdma and is("kvof tcp"; "read"; false); true)),
        (ratios("write: RDMA / TCP"; rdma and is("kvof"; "write"; false); rdma and is("kvof tcp"; "write"; false); true)),
        (ratios("Retrieve: RDMA / TCP"; rdma and is("kvof"; "retrieve"; false); rdma and is("kvof tcp"; "retrieve"; false); true)),
        (ratios("Store: RDMA / TCP"; rdma and is("kvof"; "store"; false); rdma and is("kvof tcp"; "store"; false); true)),
        (ratios("KV Retrieve / NVM read"; (rdma | not) and is("kvof"; "retrieve"; false); is("kvof"; "read"; false); true)),
        (ratios("KV Store / NVM write"; (rdma | not) and is("kvof"; "store"; false); is("kvof"; "write"; false); true)),
        (ratios("Retrieve: pool / memory"; is("pool, device"; "retrieve"; false); is("kvof"; "retrieve"; false) and .where == "loopback"; true)),
        (ratios("Store: pool (device) / memory"; is("pool, device"; "store"; false); is("kvof"; "store"; false) and .where == "loopback"; true)),
        (ratios("Store: pool (media) / memory"; is("pool, media"; "store"; false); is("kvof"; "store"; false) and .where == "loopback"; true)),
        (ratios("Retrieve: digests / none"; is("kvof"; "retrieve"; true); is("kvof"; "retrieve"; false); true)),
        (ratios("Store: digests / none"; is("kvof"; "store"; true); is("kvof"; "store"; false); true)),
        (ratios("Retrieve: deep / QD1"; (rdma | not) and is("kvof"; "retrieve"; false) and .depth > 1; is("kvof"; "retrieve"; false) and .depth == 1; false)),
        (ratios("Store: deep / QD1"; (rdma | not) and is("kvof"; "store"; false) and .depth > 1; is("kvof"; "store"; false) and .depth == 1; false))
    ] | add,
    # Seconds a GB are nanoseconds a byte.
    cpu: (map(select(.target_cpu)) | group_by([.op, .size, .depth]) | map((.[0] | { op, size, depth }) + {
        targets: (group_by(.target) | map({ key: .[0].target, value: { target: spread(.target_cpu), machine: spread(.machine_cpu) } }) | from_entries) }))
}
