# A cable is pulled under I/O and plugged in again: a host's, then the target's. The kernel and the host library both come back by themselves,
# block I/O only waits, and no byte is wrong.
# transport: rdma
# cpus: 2
# limit: 120
# connection: may be lost
target_start
options="--reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=2"
connect $kv $options
kv_ctrl=$ctrl
node $kv 1
ng=/dev/ng$node
connect $block $options
block_ctrl=$ctrl
node $block 1
disk=/dev/nvme$node
for pulled in host1 port1; do
    echo "== $pulled"
    "$KVOF_GUEST" loop-io $ng --seconds 60 --until $work/enough --tag 1 >$work/kernel &
    kernel=$!
    "$KVOF_GUEST" loop-io $target --nqn $kv --seconds 60 --until $work/enough --tag 2 --keep-alive 2 >$work/library &
    library=$!
    fio --name=read --filename=$disk --rw=randread --bs=16k --direct=1 --iodepth=4 --ioengine=io_uring --time_based --runtime=8 --size=8m >$work/fio.out 2>&1 &
    fio=$!
    nap 2
    cable $pulled down
    wait_for 15 state_is $kv_ctrl connecting
    nap 1
    cable $pulled up
    wait_for 20 state_is $kv_ctrl live
    wait_for 20 state_is $block_ctrl live
    touch $work/enough
    wait $fio || { cat $work/fio.out; fail "block I/O failed"; }
    wait $kernel || { cat $work/kernel; fail "loop-io through the kernel"; }
    wait $library || { cat $work/library; fail "loop-io by the host library"; }
    rm $work/enough
    cat $work/kernel $work/library
    json $work/kernel '.interrupted > 0' '.wrong_bytes == 0' '.completed > 20'
    # The host library sends what was interrupted again, by itself.
    json $work/library '.longest_gap_ms > 900' '.wrong_bytes == 0' '.completed > 20'
done
"$KVOF_GUEST" loop-io $ng --seconds 1 | tee $work/loop
json $work/loop '.interrupted == 0'
