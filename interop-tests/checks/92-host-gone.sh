# Hosts that go in the middle of transfers, with and without a word: nothing of them stays, and others notice nothing.
# transport: rdma
# cpus: 2
# limit: 120
target_start
only_the_bystander() { [ "$(connections)" = 2 ]; }
more_connections() { [ "$(connections)" = 5 ]; }
"$KVOF_GUEST" loop-io $target --nqn $kv --seconds 1 >/dev/null
wait_for 15 unconnected
before=$(target_uses) memory=$(target_memory)

# The bystander comes from the other host, by two connections.
connect $kv -w $host2_address --nr-io-queues=1
node $kv 1
"$KVOF_GUEST" loop-io /dev/ng$node --seconds 20 --tag 1 >$work/bystander &
bystander=$!
for delay in 0.1 0.2 0.3 0.5 0.8; do
    "$KVOF_GUEST" loop-io $target --nqn $kv --seconds 30 --threads 4 --size 1000000 --keys 2 --tag 2 >/dev/null 2>&1 &
    host=$!
    wait_for 15 more_connections
    nap $delay
    kill -KILL $host
    wait $host 2>/dev/null || true
    wait_for 15 only_the_bystander
done
# The kernel's host, while its block device is being read and written.
connect $block --nr-io-queues=2
node $block 1
fio --name=mix --filename=/dev/nvme$node --rw=randrw --bs=256k --direct=1 --iodepth=8 --ioengine=io_uring --time_based --runtime=20 --size=8m >$work/fio.out 2>&1 &
fio=$!
nap 2
nvme disconnect -n $block
wait $fio || true
wait $bystander || { cat $work/bystander; fail "the bystander"; }
cat $work/bystander
json $work/bystander '.interrupted == 0' '.wrong_bytes == 0' '.errors == 0'
nvme disconnect -n $kv
echo "before: $before, $memory MiB; after: $(target_uses), $(target_memory) MiB"
wait_for 15 uses_again "$before"
# What was stored is still there.
(( $(target_memory) <= memory + 40 ))
# kernel-log: I/O error|[aA]bort|Buffer I/O|no available path
