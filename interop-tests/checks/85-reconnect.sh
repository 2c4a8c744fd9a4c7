# The target is killed and started again under I/O: the kernel reconnects by itself, block I/O only waits, no byte is wrong.
# transport: tcp rdma
# cpus: 2
# target: may end
# limit: 90
# connection: may be lost
target_start
options="--reconnect-delay=1 --ctrl-loss-tmo=60 --keep-alive-tmo=5"
connect $kv $options
kv_ctrl=$ctrl
node $kv 1
ng=/dev/ng$node
connect $block $options
block_ctrl=$ctrl
node $block 1
disk=/dev/nvme$node

"$KVOF_GUEST" loop-io $ng --seconds 60 --until $work/enough >$work/loop &
loop=$!
fio --name=read --filename=$disk --rw=randread --bs=16k --direct=1 --iodepth=4 --ioengine=io_uring --time_based --runtime=7 --size=8m >$work/fio.out 2>&1 &
fio=$!
nap 2
target_stop KILL
nap 1
target_start
wait_for 20 state_is $kv_ctrl live
wait_for 20 state_is $block_ctrl live
touch $work/enough
wait $fio || { cat $work/fio.out; fail "block I/O failed"; }
wait $loop || { cat $work/loop; fail "loop-io"; }
cat $work/loop
json $work/loop '.interrupted > 0' '.wrong_bytes == 0' '.completed > 20'
# And it is a controller like any other afterwards.
"$KVOF_GUEST" loop-io $ng --seconds 1 | tee $work/loop
json $work/loop '.interrupted == 0'
