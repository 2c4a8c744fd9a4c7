#!/bin/sh
# Installs what the test guest needs and unpacks the two stock kernels it boots.
# Idempotent, and quick when nothing is missing. Debian 12 or newer, only apt; no kernel is installed on this machine.
set -eu

repo=$(cd "$(dirname "$0")/.." && pwd)
cache="${KVOF_GUEST_CACHE:-$repo/.build/guest}"
# What each name here points at is the versioned image package; the names are the ones every Debian 12 has in its archive.
metapackages="linux-image-6.12-amd64 linux-image-amd64"

say() { printf 'interop setup: %s\n' "$*"; }
fail() { printf 'interop setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "needs root to run '$*': run this script as root or install sudo"
    fi
}

updated=
update_lists() {
    [ -n "$updated" ] || as_root apt-get update -qq || say "apt-get update failed; going on with the lists that are there"
    updated=1
}

# Commands the harness and the checks use, and the package each comes from.
missing=
while read -r command package; do
    [ -n "$command" ] || continue
    PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || missing="$missing $package"
done <<'PACKAGES'
qemu-system-x86_64 qemu-system-x86
nvme nvme-cli
fio fio
busybox busybox-static
depmod kmod
xz xz-utils
ip iproute2
mkfs.ext4 e2fsprogs
jq jq
nft nftables
dmsetup dmsetup
tc iproute2
rdma iproute2
rping rdmacm-utils
ibv_devinfo ibverbs-utils
PACKAGES
# Libraries that programs open when they run: rdma-core, and what it opens for each kind of device.
for package in librdmacm1 libibverbs1 ibverbs-providers; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "installing:$missing"
    update_lists
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi
if ! busybox --list | grep -qx insmod || ldd "$(command -v busybox)" >/dev/null 2>&1; then
    say "installing: busybox-static (the busybox here cannot be the guest's init)"
    update_lists
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends busybox-static >/dev/null
fi

# The versioned package behind a metapackage, e.g. linux-image-6.1.0-56-amd64.
image_of() {
    apt-cache depends --no-recommends --no-suggests "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

fetch_kernel() {
    metapackage=$1
    link="$cache/$metapackage"
    if [ -e "$link/vmlinuz" ]; then
        say "$metapackage: $(readlink "$link") is there"
        return
    fi
    image=$(image_of "$metapackage")
    if [ -z "$image" ]; then
        update_lists
        image=$(image_of "$metapackage")
    fi
    [ -n "$image" ] || fail "$metapackage is not in this machine's package archive.
  Debian 12 has it in 'bookworm-security' or 'bookworm-backports': add that suite to the sources apt reads
  (beside the 'bookworm' line, same mirror), run 'apt-get update', and run this script again."

    work="$cache/.unpack-$image.$$"
    rm -rf "$work"
    mkdir -p "$work/download" "$work/tree"
    say "$metapackage: downloading $image"
    if ! (cd "$work/download" && apt-get download -qq "$image"); then
        update_lists
        image=$(image_of "$metapackage")
        (cd "$work/download" && apt-get download -qq "$image") || { rm -rf "$work"; fail "apt-get download $image failed"; }
    fi
    dpkg -x "$work"/download/*.deb "$work/tree"
    version=$(ls "$work/tree/lib/modules" 2>/dev/null || ls "$work/tree/usr/lib/modules")
    modules="$work/tree/lib/modules/$version"
    [ -d "$modules" ] || modules="$work/tree/usr/lib/modules/$version"

    # Of 4000 modules the guest can use a few hundred: the rest is hardware it does not have.
    for dir in drivers/gpu drivers/media drivers/net/ethernet drivers/net/wireless drivers/usb drivers/staging drivers/iio drivers/hwmon \
               drivers/scsi drivers/platform drivers/input drivers/hid drivers/mfd drivers/video drivers/isdn drivers/ata drivers/bluetooth \
               drivers/i2c drivers/power drivers/leds drivers/rtc drivers/tty drivers/watchdog drivers/mtd drivers/thermal drivers/edac \
               sound net/bluetooth net/mac80211 net/wireless; do
        rm -rf "$modules/kernel/$dir"
    done
    # The initramfs's insmod reads plain ELF only.
    find "$modules" -name '*.ko.xz' -print0 | xargs -0 -r -P "$(nproc)" -n 64 xz -d
    result="$cache/$version"
    rm -rf "$result"
    mkdir -p "$work/result/lib/modules"
    mv "$modules" "$work/result/lib/modules/$version"
    mv "$work/tree/boot/vmlinuz-$version" "$work/result/vmlinuz"
    cp "$work/tree/boot/config-$version" "$work/result/config"
    PATH="$PATH:/usr/sbin:/sbin" depmod -b "$work/result" "$version"
    mv "$work/result" "$result"
    ln -sfn "$version" "$link"
    rm -rf "$work"
    say "$metapackage: $version unpacked"
}

mkdir -p "$cache"
for metapackage in $metapackages; do
    fetch_kernel "$metapackage"
done
say "ready"
