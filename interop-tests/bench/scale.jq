# What tools/bench-scale has measured, as one document: for each part and what it is about the spread over the rounds, and ratios within a round.

include "common";

.machine as $machine | .lines as $lines
| def of(part): $lines | map(select(.part == part));
  def summary: group_by(.about) | map(. as $group | { about: $group[0].about, rounds: ($group | length) } +
    (["ops", "bytes_per_second", "p50", "p99", "p99_9", "max", "processors", "rss", "unsent"]
      | map(. as $name | { ($name): ($group | spread(.[$name])) }) | add));
  # The ratio of one field of two cases, round by round.
  def ratio($part; $a; $b; field): of($part) as $all
    | [$all[] | select(.about == $a) | . as $one | $all[] | select(.about == $b and .round == $one.round)
        | select((field) > 0) | ($one | field) / field] | spread(.);
  { $machine,
    cores: { figures: (of("cores") | summary),
        ratios: (of("cores") | map(.about | split("|") | { what: .[0], load: .[2] }) | unique
          | map(. + { ops: ratio("cores"; "\(.what)|2|\(.load)"; "\(.what)|1|\(.load)"; .ops),
              processors: ratio("cores"; "\(.what)|2|\(.load)"; "\(.what)|1|\(.load)"; .processors / .ops) })) },
    connections: { figures: (of("connections") | summary),
        bytes_per_idle_connection: (of("connections") as $all | [$all[] | select(.idle > 0) | . as $with
          | $all[] | select(.round == $with.round and .idle == 0 and (.about | split("|")[0]) == ($with.about | split("|")[0]))
          | ($with.rss - .rss) / $with.idle] | spread(.)),
        ratios: (of("connections") | map(select(.idle > 0) | .about | split("|") | { what: .[0], idle: .[1] }) | unique
          | map(. + { p50: ratio("connections"; "\(.what)|\(.idle)"; "\(.what)|0"; .p50), p99: ratio("connections"; "\(.what)|\(.idle)"; "\(.what)|0"; .p99),
              ops: ratio("connections"; "\(.what)|\(.idle)"; "\(.what)|0"; .ops) })) },
    fairness: { figures: (of("fairness") | summary), floods: (of("flood") | summary),
        ratios: (of("fairness") | map(select(.about | endswith("|alone") | not) | .about | split("|") | { what: .[0], flood: .[1] }) | unique
          | map(. + { p50: ratio("fairness"; "\(.what)|\(.flood)"; "\(.what)|alone"; .p50), p99: ratio("fairness"; "\(.what)|\(.flood)"; "\(.what)|alone"; .p99) }
              | . + { goal: 3, met: (.p99.median != null and .p99.median <= 3) })) },
    polling: { figures: (of("polling") | summary) },
    measurements: $lines }
