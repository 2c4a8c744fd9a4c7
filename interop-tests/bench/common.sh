# What tools/bench and tools/bench-peers share. Sourced in the repository's root, with $name for messages.

files=interop-tests/bench
bin=${KVOF_BIN_DIR:-${CARGO_TARGET_DIR:-.build}/release}
say() { printf '%s: %s\n' "$name" "$*" >&2; }
command -v jq >/dev/null || { say "jq is needed to make the tables; interop-tests/bench/setup.sh installs it"; exit 1; }

work=$(mktemp -d)
children=()
# What else is to be undone.
cleanup() { :; }
finish() {
    local pid
    for pid in "${children[@]}"; do
        kill -TERM "$pid" 2>/dev/null || continue
        # One that was stopped.
        kill -CONT "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
    cleanup
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
: >"$work/lines"

# until_there FILE PID: waits for a file that a process makes.
until_there() {
    local tries
    for (( tries = 0; tries < 200; tries++ )); do
        [ ! -e "$1" ] || return 0
        kill -0 "$2" 2>/dev/null || return 1
        sleep 0.05
    done
    return 1
}

# stream LENGTH SECONDS [--reverse]: one stream of iperf3 from the host's processor to the target's, or back, in writes of LENGTH; prints bytes
# a second. The arrays `first` and `others` begin commands for the one and the other.
stream() {
    local port=$((20000 + RANDOM % 10000)) pid rc=0
    "${first[@]}" iperf3 --server --one-off --bind 127.0.0.1 --port $port >/dev/null 2>&1 &
    pid=$!
    sleep 0.3
    "${others[@]}" iperf3 --client 127.0.0.1 --port $port --length "$1" --time "$2" "${@:3}" --json >"$work/iperf3" 2>/dev/null || rc=1
    kill $pid 2>/dev/null && wait $pid || true
    if [ $rc = 0 ]; then jq '.end.sum_received.bits_per_second / 8' "$work/iperf3"; else say "iperf3 failed: this round has no raw stream"; fi
}

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
load=$(cut -d ' ' -f 1 /proc/loadavg)
congestion=$(</proc/sys/net/ipv4/tcp_congestion_control)
version=$(git describe --always --dirty 2>/dev/null || true)
machine_line() {
    printf 'kvof %s on %s, %s processors, Linux %s, TCP congestion control %s, load average %s at the start\n' \
        "$version" "$cpu" "$(nproc)" "$(uname -r)" "$congestion" "$load"
}
machine_json() {
    jq -n --arg cpu "$cpu" --argjson processors "$(nproc)" --arg load "$load" --arg kernel "$(uname -r)" --arg congestion_control "$congestion" \
        '{ $cpu, $processors, $kernel, $congestion_control, load_average: ($load | tonumber) }'
}
