# A file system on the NVM namespace: made, filled, checked, and the same after the host has left and come back.
# transport: tcp rdma
target_start
connect $block
node $block 1
disk=/dev/nvme$node
expect "block size" "$(blockdev --getss $disk)" 4096
expect "capacity" "$(blockdev --getsize64 $disk)" $((96 << 20))
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $disk
mount $disk /mnt
cp -r "${BASH_SOURCE[0]%/*}" /mnt/checks
head -c 20000000 /dev/urandom >/mnt/random
(cd /mnt && find . -type f -print0 | xargs -0 sha256sum) >$work/sums
umount /mnt
fsck.ext4 -fn $disk
disconnect_all
connect $block
node $block 1
disk=/dev/nvme$node
fsck.ext4 -fn $disk
mount -o ro $disk /mnt
(cd /mnt && sha256sum --quiet -c $work/sums)
umount /mnt
