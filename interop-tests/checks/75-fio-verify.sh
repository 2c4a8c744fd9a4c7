# fio writes every size of block at random over the NVM namespace, with many in flight, and reads all of it back.
# transport: tcp rdma
# cpus: 2
# limit: 120
target_start
connect $block
node $block 1
cat >$work/job <<JOB
[global]
filename=/dev/nvme$node
direct=1
ioengine=io_uring
iodepth=16
verify=crc32c
verify_fatal=1
group_reporting
[write]
rw=randwrite
bssplit=4k/60:16k/20:64k/15:1m/5
size=24m
do_verify=1
JOB
[ $transport = tcp ] || before=$(swapped)
(cd $work && fio --output-format=terse --terse-version=3 job >fio.out 2>&1) || { cat $work/fio.out; fail fio; }
# Zeroes, by whatever command the target offers for it.
blkdiscard -z -o 4096 -l $((1 << 20)) /dev/nvme$node
dd if=/dev/nvme$node bs=4096 skip=1 count=256 iflag=direct status=none | cmp -n $((1 << 20)) - /dev/zero
# What many packets in flight from both processors would show: the guest's network keeps their order.
[ $transport = tcp ] || expect "packets that came out of order" $(( $(swapped) - before )) 0
