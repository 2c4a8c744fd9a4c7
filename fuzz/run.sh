#!/bin/bash
# fuzz/run.sh [SECONDS [BODY...]]: runs each fuzz body under libFuzzer for SECONDS (60), beginning with the committed corpus.
#
# What it finds goes to .build/fuzz: corpus/BODY grows from run to run, crashes/BODY has the inputs that failed.
# `fuzz/run.sh minimise [FILES]` takes what extends the committed corpus over into it. SANITIZER=none makes runs faster and
# blind for what AddressSanitizer sees in the unsafe code of kvof-io.
set -eu
cd "$(dirname "$0")/cargo-fuzz"
root=$(cd ../.. && pwd)
export CARGO_TARGET_DIR="$root/.build/cargo-fuzz"
work="$root/.build/fuzz"
bodies=(config initiator pdu rdma_initiator rdma_target target)
# Longest inputs, and most memory: a body that needs more is a finding.
max_len=8192
rss_mb=2048

if ! rustc +nightly --version >/dev/null 2>&1; then
    echo "fuzzing needs a nightly compiler: rustup toolchain install nightly" >&2
    exit 1
fi
if ! command -v cargo-fuzz >/dev/null; then
    echo "installing cargo-fuzz"
    CARGO_TARGET_DIR="$root/.build/cargo-fuzz-install" cargo install cargo-fuzz --locked
fi
host=$(rustc +nightly -vV | sed -n 's/^host: //p')

build() {
    cargo +nightly fuzz build --fuzz-dir . --release --sanitizer "${SANITIZER:-address}"
}
binary() {
    echo "$CARGO_TARGET_DIR/$host/release/$1"
}

# Of what the runs found and what reaches code that the committed files do not, some files of every size go into the
# repository: they are for plain tests too, which have no hours.
if [ "${1:-}" = minimise ]; then
    most=${2:-40}
    build
    for body in "${bodies[@]}"; do
        [ -d "$work/corpus/$body" ] || continue
        merged="$work/merged/$body"
        rm -rf "$merged" && mkdir -p "$merged"
        cp "$root/fuzz/corpus/$body"/* "$merged"
        "$(binary "$body")" -merge=1 -max_len=1024 -rss_limit_mb=$rss_mb "$merged" "$work/corpus/$body" >"$work/merge-$body.log" 2>&1
        mapfile -t found < <(cd "$merged" && find . -type f -size -3 -printf '%s %f\n' | sort -n | cut -d' ' -f2)
        new=()
        for file in "${found[@]}"; do
            [ -e "$root/fuzz/corpus/$body/$file" ] || new+=("$file")
        done
        added=0
        for ((i = 0; i < most && i < ${#new[@]}; i++)); do
            at=$((${#new[@]} > most ? i * ${#new[@]} / most : i))
            cp "$merged/${new[at]}" "$root/fuzz/corpus/$body/" && added=$((added + 1))
        done
        echo "$body: $added files more"
    done
    du -sh --apparent-size "$root/fuzz/corpus"
    exit
fi

seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -eq 0 ] || bodies=("$@")
build
failed=()
for body in "${bodies[@]}"; do
    mkdir -p "$work/corpus/$body" "$work/crashes/$body"
    log="$work/$body.log"
    echo "=== $body for $seconds s; log in $log"
    if timeout -k 10 $((seconds + 120)) nice -n 10 "$(binary "$body")" -max_total_time="$seconds" -max_len=$max_len \
        -rss_limit_mb=$rss_mb -timeout=20 -print_final_stats=1 -artifact_prefix="$work/crashes/$body/" \
        "$work/corpus/$body" "$root/fuzz/corpus/$body" >"$log" 2>&1; then
        grep -E '^(#[0-9]+.*DONE|stat::number_of_executed_units|stat::peak_rss_mb)' "$log" || true
    else
        failed+=("$body")
        grep -E 'panicked|ERROR|SUMMARY|Test unit written' -A 2 "$log" | head -n 20
        echo "again: cargo run -p kvof-fuzz --bin replay -- $body FILE"
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}"
    exit 1
fi
echo "nothing found"
