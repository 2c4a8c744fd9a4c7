#!/bin/sh
# Installs what `make bench` and `make bench-peers` compare with and what makes its tables. Quick when nothing is missing.
set -eu
missing=
for pair in fio:fio db_bench:rocksdb-tools iperf3:iperf3 jq:jq redis-benchmark:redis-tools; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0
echo "bench setup: installing$missing"
root=
[ "$(id -u)" = 0 ] || root=sudo
# shellcheck disable=SC2086  # lists of words
if ! { $root apt-get update -qq && $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; }; then
    # What is not there is left out of the tables, which say so.
    echo "bench setup: not all of$missing could be installed"
fi
