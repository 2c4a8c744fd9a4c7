# What the tables of tools/bench and tools/bench-peers share: numbers of several rounds, and how they are printed.

def median: sort | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
def spread(f): map(f | select(. != null)) | { median: median, least: min, most: max };

def size: if . >= 1048576 then "\(. / 1048576) MiB" else "\(. / 1024) KiB" end;
def two: if . == null then "" else (. * 100 | round) as $n | "\($n / 100 | floor).\(($n % 100 + 100 | tostring)[1:])" end;
def rate: if . >= 10000 then "\(. / 1000 | round) K" elif . >= 1000 then "\((. / 100 | round) / 10) K" else "\(round)" end;
def micros: if . < 100 then "\((. * 10 | round) / 10)" else "\(round)" end;
def range: "\(.least | two) – \(.most | two)";
