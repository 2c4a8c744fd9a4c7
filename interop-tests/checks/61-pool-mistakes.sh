# What can be wrong with the devices of a pool: each mistake ends the target or `kvof format` with a message that names the device and what is
# wrong with it; a file system that is full is a failed device to the pool, and no host loses what was acknowledged.
# limit: 120
# target: may end
# target-log: device failed|degraded
target_stop
says() { local wanted=$1; shift; refuses "$@"; grep -q -- "$wanted" <<<"$output" || fail "wanted '$wanted' of: $*"; }
mkdir -p $work/mistakes
cd $work/mistakes

# At format.
mkdir folder
says 'folder is a directory' "$KVOF" format --name x folder
truncate -s 64K tiny
says 'tiny has 65536 bytes' "$KVOF" format --name x tiny
says 'nowhere does not exist' "$KVOF" format --name x nowhere
truncate -s 96M first second third
"$KVOF" format --name flash --profile 2+1 first second third
says 'first holds' "$KVOF" format --name other first

# At the target's start.
for mistake in 'folder:folder is neither a file nor a block device' tiny:tiny; do
    pool_config $work/mistakes/${mistake%:*}
    says "${mistake#*:}" "$KVOF_TARGET" --config "$config"
done
truncate -s 96M fourth
"$KVOF" format --name other fourth
pool_config $work/mistakes/first $work/mistakes/second $work/mistakes/fourth
says 'different pools' "$KVOF_TARGET" --config "$config"
# Two of three are gone.
pool_config $work/mistakes/first
says 'at least 2 are needed' "$KVOF_TARGET" --config "$config"

# A file system that is full: the file has its size, and no room for it.
mkdir small
mount -t tmpfs -o size=24m tmpfs small
truncate -s 96M small/disk fifth sixth
"$KVOF" format --name flash --profile 2+1 small/disk fifth sixth
pool_size=64MiB pool_config $work/mistakes/small/disk $work/mistakes/fifth $work/mistakes/sixth
target_start
connect $pool_subsystem
node $pool_subsystem 1
"$KVOF_GUEST" keep /dev/ng$node --keys 1000
"$KVOF_GUEST" kept /dev/ng$node --keys 1000 | tee $work/kept
json $work/kept '.right == 1000'
target_logged 'No space left on device'
target_logged 'device failed.* member=0 .*small/disk'
disconnect_all
target_stop
umount -l small
cd /
rm -rf $work/mistakes
