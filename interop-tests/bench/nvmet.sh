# The kernel's own target, as what kvof is compared with. Sourced.

nvmet_nqn=nqn.2026-01.org.example:nvmet

# nvmet_serve TRANSPORT ADDRESS PORT: a ramdisk of 128 MiB behind the kernel's target.
nvmet_serve() {
    local nvmet=/sys/kernel/config/nvmet
    modprobe "nvmet_$1"
    modprobe brd rd_nr=1 rd_size=$((128 << 10))
    mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
    mkdir "$nvmet/subsystems/$nvmet_nqn" "$nvmet/subsystems/$nvmet_nqn/namespaces/1" "$nvmet/ports/1"
    echo 1 >"$nvmet/subsystems/$nvmet_nqn/attr_allow_any_host"
    echo /dev/ram0 >"$nvmet/subsystems/$nvmet_nqn/namespaces/1/device_path"
    echo 1 >"$nvmet/subsystems/$nvmet_nqn/namespaces/1/enable"
    echo "$1" >"$nvmet/ports/1/addr_trtype"
    echo ipv4 >"$nvmet/ports/1/addr_adrfam"
    echo "$2" >"$nvmet/ports/1/addr_traddr"
    echo "$3" >"$nvmet/ports/1/addr_trsvcid"
    ln -s "$nvmet/subsystems/$nvmet_nqn" "$nvmet/ports/1/subsystems/"
}

# serve CONFIG: the target of this project; $target_pid is its process. What it says goes to $work/log.
serve() {
    local tries
    "$KVOF_TARGET" --config "$1" --ready-file "$work/ready" >"$work/log" 2>&1 &
    target_pid=$!
    for (( tries = 0; tries < 100; tries++ )); do [ -e "$work/ready" ] && return; sleep 0.1; done
    cat "$work/log"
    exit 1
}
