# A summary of peers.jq as Markdown.

include "common";

def operation: { read: "read", write: "write", retrieve: "Retrieve", store: "Store" }[.op] // .op;
def title: "\(operation) | \(.size | size) | \(.depth)";
def verdict: if .goal == null then " | " else "\(.goal | two) | \(if .met then "met" else "missed" end)" end;
def table(group; heading; columns; row):
    [.ratios[] | select(.group == group)] | sort_by(.digests, .op, .size, .depth)
    | if length > 0 then "\n### \(heading)\n", "| | size | depth | \(columns)ratio | least – most | goal | |", "|---|---|---|\(columns | gsub("[^|]+"; "---"))---|---|---|---|",
        (.[] | "| \(title) | \(row)**\(.ratio.median | two)** | \(.ratio | range) | \(verdict) |")
      else empty end;
def digests: "\(if .digests then "both" else "none" end) | ";
def figure: [if .ops.median then "\(.ops.median | rate) | \(.ops.least | rate) – \(.ops.most | rate)" else " | " end,
    (.bytes_per_second.median / 1e9 | two), (if .average_us.median then (.average_us.median | micros) else "" end),
    (if .p50_us.median then (.p50_us.median | micros) else "" end)] | join(" | ");

"MDTS of kvof and of SPDK 128 KiB (so the host splits 1 MiB), of \"kvof wide\" 2 MiB. Every target but Redis spins, and so do spdk_nvme_perf and kvof bench.",
(.machine.spdk // {} | if .version and .version != "" then "SPDK \(.version), \(if .hugepages then "with" else "without" end) hugepages." else empty end),
table("kvof / SPDK malloc"; "kvof beside SPDK's malloc bdev, host spdk_nvme_perf"; "digests | "; digests),
table("kvof / SPDK null"; "kvof beside SPDK's null bdev (which moves no data of its own), host spdk_nvme_perf"; "digests | "; digests),
table("kvof / SPDK malloc by kvof bench"; "The same targets, host kvof bench: kvof beside SPDK's malloc bdev"; "digests | "; digests),
table("kvof / SPDK null by kvof bench"; "The same targets, host kvof bench: kvof beside SPDK's null bdev"; "digests | "; digests),
table("KV / NVM"; "KV beside NVM, both kvof wide and kvof bench"; ""; ""),
table("KV / SPDK malloc"; "kvof's KV by kvof bench beside SPDK's malloc bdev by spdk_nvme_perf"; ""; ""),
table("kvof bench / spdk_nvme_perf"; "Hosts: kvof bench beside spdk_nvme_perf, both against kvof wide"; ""; ""),
table("KV / iperf3"; "kvof's KV beside one raw stream of iperf3 in writes of the same size, same direction"; ""; ""),
table("KV of one value / iperf3"; "The same with one value again and again, as iperf3 sends one buffer"; ""; ""),
table("KV / Redis"; "kvof's KV beside Redis (redis-benchmark, as many connections as kvof has commands in flight)"; ""; ""),
"\n### Figures\n",
"| target | host | operation | size | depth | digests | op/s | least – most | GB/s | average, µs | p50, µs |",
"|---|---|---|---|---|---|---|---|---|---|---|",
(.results | sort_by(.op, .size, .depth, .digests)[] | "| \(.target) | \(.host) | \(title) | \(digests)\(figure) |")
