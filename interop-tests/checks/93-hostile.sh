# Hosts that break every rule over RDMA: none does harm to another, and nothing of them stays.
# transport: rdma
# cpus: 2
# limit: 240
target_stop
{ sed 's/^controllers = .*/controllers = 8/' "$config"; printf '[rdma]\nhandshake_timeout = "2s"\n'; } >$work/own.toml
config=$work/own.toml
target_start
"$KVOF_GUEST" loop-io $target --nqn $kv --seconds 1 >/dev/null
wait_for 15 unconnected
before=$(target_uses) memory=$(target_memory)
connect $kv -w $host2_address --nr-io-queues=1
node $kv 1
( while [ ! -e $work/enough ]; do "$KVOF_GUEST" loop-io /dev/ng$node --seconds 5 --tag 1 --threads 1; done ) >$work/bystander &
bystander=$!
"$KVOF_GUEST" hostile $address:4420 --nqn $kv
# Those that move data once more: memory that was registered for the first is of use for the second.
registered=$(target_registrations)
for some in keys ends; do "$KVOF_GUEST" hostile $address:4420 --nqn $kv --only $some; done
echo "registrations: $registered, then $(target_registrations)"
(( $(target_registrations) <= registered + 10 ))
touch $work/enough
wait $bystander || { cat $work/bystander; fail "the bystander"; }
rm $work/enough
jq -s '{ interrupted: map(.interrupted) | add, wrong_bytes: map(.wrong_bytes) | add, errors: map(.errors) | add }' $work/bystander | tee $work/sum
json $work/sum '.interrupted == 0' '.wrong_bytes == 0' '.errors == 0'
nvme disconnect -n $kv
echo "before: $before, $memory MiB; after: $(target_uses), $(target_memory) MiB"
wait_for 15 uses_again "$before"
(( $(target_memory) <= memory + 24 ))
