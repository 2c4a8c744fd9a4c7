# Hosts that go in the middle of transfers, with and without a word: nothing of them stays, and others notice nothing.
# transport: rdma
# cpus: 2
# limit: 120
target_start
others() { [ "$(connections)" -gt 3 ]; }

# lost DELAY...: hosts that are killed so long after they have connected.
lost() {
    local delay host
    for delay; do
        "$KVOF_GUEST" loop-io $target --nqn $kv --seconds 30 --threads 4 --size 1000000 --keys 2 --tag 2 >/dev/null 2>&1 &
        host=$!
        wait_for 15 others
        nap "$delay"
        kill -KILL $host
        wait $host 2>/dev/null || true
        wait_for 15 one_host
    done
    # The kernel's host, while its block device is being read and written.
    connect $block --nr-io-queues=2
    node $block 1
    fio --name=mix --filename=/dev/nvme$node --rw=randrw --bs=256k --direct=1 --iodepth=8 --ioengine=io_uring --time_based --runtime=20 --size=8m >$work/fio.out 2>&1 &
    host=$!
    nap 2
    nvme disconnect -n $block
    wait $host || true
    wait_for 15 one_host
}

# The bystander comes from the other host, by two connections.
connect $kv -w $host2_address --nr-io-queues=1
node $kv 1
( until [ -e $work/enough ]; do "$KVOF_GUEST" loop-io /dev/ng$node --seconds 2 --tag 1; done ) >$work/bystander &
bystander=$!
# What the first have made the target register and touch, those after them use again.
lost 0.1 0.6
before=$(target_uses) memory=$(target_memory)
lost 0.3
echo "before: $before, $memory MiB; after: $(target_uses), $(target_memory) MiB"
wait_for 15 uses_again "$before"
(( $(target_memory) <= memory + 16 ))
touch $work/enough
wait $bystander || { cat $work/bystander; fail "the bystander"; }
rm $work/enough
jq -s '{ interrupted: map(.interrupted) | add, wrong_bytes: map(.wrong_bytes) | add, errors: map(.errors) | add }' $work/bystander | tee $work/sum
json $work/sum '.wrong_bytes == 0' '.errors == 0' '.interrupted == 0'
# kernel-log: I/O error|[aA]bort|Buffer I/O|no available path|QID [0-9]+ timeout|starting error recovery|Reconnecting in|Property Set error
