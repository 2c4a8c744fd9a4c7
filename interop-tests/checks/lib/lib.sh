# What every check has at hand. Sourced by `run`; never run by itself.
#
# Each check starts with the target not necessarily running (`target_start` makes sure) and no connection, and may leave both behind.
# A check that makes the kernel or the target complain on purpose says which lines are due: `# kernel-log: REGEX` and
# `# target-log: REGEX` in its file.

work=/tmp/kvof
mkdir -p $work
. "${BASH_SOURCE[0]%/*}/rdma.sh"

# What this guest's checks connect by: a check that names both runs in two guests, and has these to tell.
transport=${KVOF_TRANSPORT:-tcp}
case $transport in
    tcp) address=127.0.0.1 address6=::1 ;;
    rdma) address=$port_address address6=$port_address6 ;;
esac
# What the host library and `kvof` take.
target=$transport://$address:4420

# ports: the tables of the target's configuration that say where it listens. Over RDMA, loopback has TCP too.
ports() {
    [ $transport = tcp ] || printf '[[port]]\ntransport = "rdma"\naddress = "%s"\n\n' $address:4420 "[$address6]:4420"
    printf '[[port]]\naddress = "%s"\n\n' 127.0.0.1:4420
    [ $transport = rdma ] || printf '[[port]]\naddress = "%s"\n\n' "[$address6]:4420"
}

# What the target serves, which a check may change.
config=$work/target.toml
target_ready_file=$work/target.ready
target_log=$work/target.log
target_pid_file=$work/target.pid
[ -e "$config" ] || { ports; cat "${BASH_SOURCE[0]%/*}/target.toml"; } >"$config"

: >>"$target_log"
[ -e "$work/target-log-start" ] || echo 0 >"$work/target-log-start"

kv=nqn.2026-01.org.example:kv
block=nqn.2026-01.org.example:block
private=nqn.2026-01.org.example:private
discovery=nqn.2014-08.org.nvmexpress.discovery
# The two hosts that checks connect as.
host_a=nqn.2026-01.org.example:host-a
host_b=nqn.2026-01.org.example:host-b
hostid_a=00000000-0000-4000-8000-00000000000a
hostid_b=00000000-0000-4000-8000-00000000000b

exec {never}<> <(:)
# nap SECONDS: sleep without a process, which costs 50 ms in the guest.
nap() { read -r -t "$1" -u "$never" _ || true; }

fail() { echo "FAILED: $*"; return 1; }

# expect WHAT GOT WANTED
expect() { [ "$2" = "$3" ] || fail "$1: got '$2', wanted '$3'"; }

# refuses COMMAND...: the command must fail. Its output is kept in $output.
refuses() {
    if output=$("$@" 2>&1 | tr -d '\0'); then fail "should have failed: $*; it said: $output"; return 1; fi
    echo "$output"
}

# json FILE EXPRESSION...: every jq expression must be true of the file.
json() {
    local file=$1 expression all=.; shift
    # One process for all of them when they hold, as they should.
    printf -v all ' and (%s)' "$@"
    jq -e "true $all" "$file" >/dev/null && return
    for expression in "$@"; do
        jq -e "$expression" "$file" >/dev/null || echo "not true: $expression"
    done
    cat "$file"
    fail "$file"
}

# wait_for SECONDS COMMAND...: until the command (a builtin or a function, ideally) succeeds.
wait_for() {
    local until=$(( ${EPOCHREALTIME/./} + $1 * 1000000 )); shift
    until "$@"; do
        (( ${EPOCHREALTIME/./} < until )) || { fail "waited in vain for: $*"; return 1; }
        nap 0.05
    done
}

# holds FILE TEXT: whether this is the file's line. What lies in /sys comes and goes, and `$(<file)` ends the shell if the file is not there,
# in a condition too.
holds() { local line=; read -r line 2>/dev/null <"$1"; [ "$line" = "$2" ]; }

# processors on|: both, or one. With one, a message from process to process costs no wake-up of an emulated processor, which takes
# milliseconds on a busy machine; two are for checks whose point is several queues or parallel work.
processors() {
    local wanted=0 online=/sys/devices/system/cpu/cpu1/online
    [ -z "$1" ] || wanted=1
    [ ! -e $online ] || holds $online $wanted || echo $wanted >$online
}

# --- the target

target_runs() { [ -e "$target_pid_file" ] && kill -0 "$(<"$target_pid_file")" 2>/dev/null; }
target_pid() { echo "$(<"$target_pid_file")"; }

target_start() {
    target_runs && return
    rm -f "$target_ready_file"
    local online
    online=$(cat /sys/devices/system/cpu/cpu1/online 2>/dev/null || echo 1)
    # Its threads are made for the processors it finds.
    processors on
    setsid "$KVOF_TARGET" --config "$config" --ready-file "$target_ready_file" </dev/null >>"$target_log" 2>&1 &
    echo $! >"$target_pid_file"
    wait_for 10 target_started
    [ "$online" = 1 ] || processors ""
    target_runs || { cat "$target_log"; fail "the target did not start"; }
}
target_started() { [ -e "$target_ready_file" ] || ! target_runs; }

target_stop() {
    target_runs || return 0
    kill -"${1:-TERM}" "$(target_pid)"
    wait_for 15 target_gone
}
target_gone() { ! target_runs; }

# target_logged REGEX: since this check began. No pipe: grep leaves at the first match, and a `tail` that still writes would fail of it.
target_logged() { grep -qE -- "$1" <(tail -c "+$(( $(<"$work/target-log-start") + 1 ))" "$target_log"); }

# own_config: what the target serves from its next start in this check is what is written to $config after the ports; then all is as before.
own_config() {
    config=$work/own.toml
    ports >"$config"
}

# --- pools

pool_subsystem=nqn.2026-01.org.example:pool

# pool_config DEVICE...: a configuration of its own with a KV namespace on a pool of these devices, which the target serves from its next
# start in this check: $pool_size bytes of it (128MiB).
pool_config() {
    local device devices=
    for device; do devices+=", \"$device\""; done
    own_config
    cat >>"$config" <<TOML
[reactor]
busy_poll = "0s"
memory = "64MiB"

[limits]
transfer = "1MiB"

[[pool]]
name = "flash"
devices = [${devices#, }]
# What is read comes from the devices.
tier = 0
read_ahead = 0

[[subsystem]]
nqn = "$pool_subsystem"
allowed_hosts = "any"

[[subsystem.namespace]]
nsid = 1
kind = "kv"
storage = "pool:flash"
size = "${pool_size:-128MiB}"
max_value_size = "1MiB"
TOML
}

# dm_create NAME DEVICE: a device-mapper device that passes everything on, /dev/mapper/NAME.
dm_create() { DM_DISABLE_UDEV=1 dmsetup create "$1" --table "0 $(blockdev --getsz "$2") linear $2 0"; }

# dm_change NAME TABLE: in place, while it is open; what is in flight fails or passes with the old table.
dm_change() {
    DM_DISABLE_UDEV=1 dmsetup suspend --noflush --nolockfs "$1"
    DM_DISABLE_UDEV=1 dmsetup reload "$1" --table "$2"
    DM_DISABLE_UDEV=1 dmsetup resume "$1"
}

# dm_devices COUNT MEGABYTES: $devices are device-mapper devices over loop devices over files; $loops lie below them.
dm_devices() {
    local number loop
    modprobe -a loop dm_mod
    devices=() loops=()
    mkdir -p "$work/disks"
    for (( number = 0; number < $1; number++ )); do
        truncate -s "$2M" "$work/disks/$number"
        loop=$(losetup --direct-io=off -f --show "$work/disks/$number")
        dm_create "disk$number" "$loop"
        loops+=("$loop") devices+=("/dev/mapper/disk$number")
    done
}

# failing_pool: a pool of five devices, one of them parity, which `dm_change` makes fail; the target serves it, and 64 values that `kept`
# looks for are stored. $ng is its node, $sectors the length of each device.
failing_pool() {
    dm_devices 5 96
    "$KVOF" format --name flash --profile 4+1 "${devices[@]}"
    pool_config "${devices[@]}"
    target_stop
    target_start
    connect $pool_subsystem
    node $pool_subsystem 1
    ng=/dev/ng$node
    sectors=$(blockdev --getsz "${devices[0]}")
    "$KVOF_GUEST" keep $ng --keys 64
}

# --- the kernel's host

# connect SUBSYSTEM [nvme connect's options]: $ctrl is the controller's name (nvme0) once it is live and scanned.
connect() {
    local subsystem=$1 answer; shift
    [[ " $* " == *" -a "* ]] || set -- -a $address "$@"
    answer=$(nvme connect -o json -t $transport -s 4420 -n "$subsystem" "$@") || fail "connect $subsystem $*: $answer"
    [[ $answer =~ nvme[0-9]+ ]] || fail "nvme connect printed no device: $answer"
    ctrl=${BASH_REMATCH[0]}
    wait_for 10 state_is "$ctrl" live
}
state_is() { holds "/sys/class/nvme/$1/state" "$2"; }
no_controllers() { ! compgen -G '/sys/class/nvme/nvme*' >/dev/null; }

# host_modules Y|N: the kernel's host with or without multipath, without connections.
host_modules() {
    [ "$(cat /sys/module/nvme_core/parameters/multipath 2>/dev/null)" != "$1" ] || return 0
    # A check may have used the other transport too.
    modprobe -qr nvme_tcp nvme_rdma nvme_fabrics nvme_core || true
    modprobe nvme_core multipath="$1"
    modprobe nvme_$transport
    expect "multipath of nvme_core" "$(</sys/module/nvme_core/parameters/multipath)" "$1"
}

disconnect_all() {
    no_controllers && return
    nvme disconnect-all
    wait_for 20 no_controllers
}

# node SUBSYSTEM NSID: $node is its name without /dev/, the n of ngXnY and nvmeXnY, e.g. 0n1, once the kernel has scanned it.
node() { node=; wait_for 10 find_node "$1" "$2"; }
find_node() {
    local dir disk
    for dir in /sys/class/nvme-subsystem/nvme-subsys*; do
        holds "$dir/subsysnqn" "$1" || continue
        # A shared namespace's disk lies under the subsystem, another's under its controller; nvmeXcYnZ is one path of a shared one.
        for disk in "$dir"/nvme*n*/nsid "$dir"/nvme*/nvme*n*/nsid; do
            [[ $disk =~ /nvme([0-9]+n[0-9]+)/nsid$ ]] || continue
            node=${BASH_REMATCH[1]}
            holds "$disk" "$2" && [ -c "/dev/ng$node" ] && return 0
        done
    done
    return 1
}

# --- after each check, in the runner's shell

# What the kernel's host says when a connection goes away, is looked for and comes back.
connection_lost='Property Set error|failed nvme_keep_alive|starting error recovery|imeout|timed out|Failed reconnect attempt|Reconnecting in|rescanning'
connection_lost+='|failed to (connect socket|send request|connect queue)|Connect command failed|[aA]bort|error=10|Connect rejected'
connection_lost+='|rdma connection establishment failed|rdma_resolve_addr|address resolution failed|SEND for CQE|MEMREG|RECV for CQE'

# after_check FILE CODE: puts everything back, and says what the kernel and the target have to say.
after_check() {
    local code=$2 lines
    # Something stopped by a check would keep the kernel from letting go.
    target_runs && kill -CONT "$(target_pid)" 2>/dev/null
    [ ! -e "$work/rules" ] || { nft flush ruleset; rm -f "$work/rules"; }
    [ $transport = tcp ] || cables_up
    mountpoint -q /mnt && umount -l /mnt
    rm -f "$work/enough"
    disconnect_all >/dev/null || code=1
    host_modules Y || code=1
    if [ -e "$target_pid_file" ] && ! target_runs && ! grep -q '^# target: may end' "$1"; then
        echo "FAILED: the target has ended"
        code=1
    fi
    if [ -e "$work/own.toml" ]; then
        # The next check finds the target that all others have.
        target_stop || code=1
        rm "$work/own.toml"
    fi
    if [ -e "$work/disks" ]; then
        DM_DISABLE_UDEV=1 dmsetup remove_all --force >/dev/null 2>&1
        losetup -D
        rm -rf "$work/disks"
    fi

    # A keep alive that is on its way when its controller is removed is cancelled, and 6.12 calls that a failure. Its Soft-RoCE may warn of a work
    # request whose connection is lost between two of its retries (rxe_comp.c:827).
    dmesg | awk '/-+\[ cut here/ { block = ""; inside = 1 }
        inside { block = block $0 "\n"; if (/end trace/) { inside = 0; if (block !~ /WARNING.*rxe_comp.c:827/) printf "%s", block } next }
        match($0, /nvme[0-9]+:/) {
            name = substr($0, RSTART, RLENGTH)
            if (/new ctrl:/) delete removed[name]
            if (/Removing ctrl:/) removed[name] = 1
            if (/nvme_keep_alive_end_io/ && name in removed) next
        }
        { print }' >"$work/kernel-log"
    dmesg --clear
    local due
    due=$(sed -n 's/^# kernel-log: //p' "$1")
    ! grep -q '^# connection: may be lost' "$1" || due+=${due:+|}$connection_lost
    lines=$(grep -E 'BUG|WARNING|Oops|Call Trace|protection fault|blocked for more|[nN]vme.*([eE]rror|[fF]ail|[tT]imeout|[aA]bort|[iI]nvalid|mismatch|ignoring|uplicate|[uU]nusual|not supported|not reported)' "$work/kernel-log" |
        grep -vE "block device for nsid [0-9]+ not supported \(csi 1\)${due:+|$due}") && { echo "FAILED: the kernel logged:"; echo "$lines"; code=1; }
    if [ "$code" != 0 ]; then echo "--- kernel log"; cat "$work/kernel-log"; fi

    if [ -e "$target_pid_file" ]; then
        lines=$(tail -c "+$(( $(<"$work/target-log-start") + 1 ))" "$target_log")
        due=$(sed -n 's/^# target-log: //p' "$1")
        if grep -E 'panicked|ERROR' <<<"$lines" | grep -vE -- "${due:-^$}"; then echo "FAILED: the target logged an error"; code=1; fi
        if [ "$code" != 0 ]; then echo "--- target log"; tail -n 60 <<<"$lines"; fi
    fi
    stat -c %s "$target_log" >"$work/target-log-start"
    return "$code"
}
