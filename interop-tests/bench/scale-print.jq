# A summary of scale.jq as Markdown.

include "common";

def us: if . == null then "" else (. / 1000 | micros) end;
def between(f): "\(.least | f) – \(.most | f)";
def find(list; about): list | map(select(.about == about)) | .[0];
def cell(f): if . == null then "" else f end;

(if .cores.ratios | length > 0 then
    "\n### One reactor thread and two\n",
    "| | load | op/s, one thread | two | two / one | least – most | processor time an operation, two / one | least – most |", "|---|---|---|---|---|---|---|---|",
    (.cores.figures as $figures | .cores.ratios[] | . as $r
      | "| \(.what) | \(.load) | \(find($figures; "\($r.what)|1|\($r.load)").ops.median | rate) | \(find($figures; "\($r.what)|2|\($r.load)").ops.median | rate) | **\(.ops.median | two)** | \(.ops | range) | **\(.processors.median | two)** | \(.processors | range) |")
  else empty end),
(if .connections.figures | length > 0 then
    "\n### 64 connections at work, and idle ones beside them\n",
    "| load | idle | op/s | p50, µs | p99, µs | p99, least – most | p99.9, µs | target, processors |", "|---|---|---|---|---|---|---|---|",
    (.connections.figures[] | (.about | split("|")) as $l
      | "| \($l[0]) | \($l[1]) | \(.ops.median | rate) | \(.p50.median | us) | \(.p99.median | us) | \(.p99 | between(us)) | \(.p99_9.median | us) | \(.processors.median | two) |"),
    "",
    (.connections.ratios[] | "\(.what), \(.idle) idle / none: p50 **\(.p50.median | two)** (\(.p50 | range)), p99 **\(.p99.median | two)** (\(.p99 | range)), op/s \(.ops.median | two)"),
    "Memory of the target for each idle connection: **\(.connections.bytes_per_idle_connection.median / 1024 | micros) KiB** (\(.connections.bytes_per_idle_connection.least / 1024 | micros) – \(.connections.bytes_per_idle_connection.most / 1024 | micros))"
  else empty end),
(if .fairness.figures | length > 0 then
    "\n### Retrieves of 4 KiB beside a flood of Stores, depth 8\n",
    "| storage | flood | flood, GB/s | p50, µs | p99, µs | p99, least – most | p99.9, µs | p99 / alone | least – most | goal |", "|---|---|---|---|---|---|---|---|---|---|",
    (.fairness as $f | $f.figures[] | . as $one | (.about | split("|")) as $l | ($f.ratios | map(select(.what == $l[0] and .flood == $l[1])) | .[0]) as $r
      | "| \($l[0]) | \($l[1]) | \(find($f.floods; $one.about) | cell(.bytes_per_second.median / 1e9 | two)) | \(.p50.median | us) | \(.p99.median | us) | \(.p99 | between(us)) | \(.p99_9.median | us) | \($r | cell("**\(.p99.median | two)** | \(.p99 | range) | \(.goal), \(if .met then "met" else "missed" end)") | if . == "" then "| | " else . end) |")
  else empty end),
(if .polling.figures | length > 0 then
    "\n### Polling and sleeping, one command at a time\n",
    "| busy_poll | load | op/s | p50, µs | p50, least – most | p99, µs | p99, least – most | target, processors |", "|---|---|---|---|---|---|---|---|",
    (.polling.figures[] | (.about | split("|")) as $l
      | "| \($l[0]) | \($l[1]) | \(.ops.median | rate) | \(.p50.median | us) | \(.p50 | between(us)) | \(.p99.median | us) | \(.p99 | between(us)) | \(.processors.median | two) |")
  else empty end)
