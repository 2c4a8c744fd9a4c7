# A summary of tables.jq as Markdown.

include "common";

"### Ratios (above 1 the first is faster)\n",
"| | where | size | depth | op/s | least – most | p50 | least – most |",
"|---|---|---|---|---|---|---|---|",
(.ratios[] | "| \(.what) | \(.where) | \(.size | size) | \(.depth) | **\(.ops.median | two)** | \(.ops | range) | \(if .p50.median then "\(.p50.median | two) | \(.p50 | range)" else " | " end) |"),
(if .cpu | length > 0 then
    "\n### CPU seconds per GB (guest, RDMA): the target's own, and the whole machine's\n",
    "| | size | depth | kvof RDMA | nvmet RDMA | kvof TCP | machine: kvof RDMA | nvmet RDMA | kvof TCP |",
    "|---|---|---|---|---|---|---|---|---|",
    (.cpu[] | .targets as $t | "| \(.op) | \(.size | size) | \(.depth) | \(["kvof", "nvmet", "kvof tcp"] | map($t[.].target.median | two) | join(" | ")) | \(["kvof", "nvmet", "kvof tcp"] | map($t[.].machine.median | two) | join(" | ")) |")
else empty end),
"\n### Figures\n",
"| where | target | operation | size | depth | op/s | least – most | GB/s | p50, µs |",
"|---|---|---|---|---|---|---|---|---|",
(.results | sort_by(.where != "loopback", .op, .digests, .size, .depth)[]
    | "| \(.where) | \(.target) | \(.op)\(if .digests then ", digests" else "" end) | \(.size | size) | \(.depth) | \(.ops.median | rate) | \(.ops.least | rate) – \(.ops.most | rate) | \(.bytes_per_second.median / 1e9 | two) | \(if .p50_us.median then (.p50_us.median | micros) else "" end) |")
