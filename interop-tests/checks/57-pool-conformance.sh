# The whole conformance suite through the kernel's passthrough on a pool of five devices, one of them parity: whole, and with one lost.
# transport: tcp rdma
# limit: 240
# target: may end
# target-log: a device of the pool is not there|pool is degraded
for (( number = 0; number < 5; number++ )); do files[number]=$work/pool-disk$number; done
"$KVOF" format --name flash --profile 4+1 --size 96MiB "${files[@]}"
pool_config "${files[@]}"
target_stop
target_start
for state in whole degraded; do
    connect $pool_subsystem
    node $pool_subsystem 1
    "$KVOF_GUEST" conformance /dev/ng$node | tee $work/conformance
    unchecked=$(sed -n 's/^\(.*[^ ]\) .* ms  skipped: .*/\1/p' $work/conformance | grep -vE '^(key\.length_over_kvkml|nsid\.(zero|broadcast|unused)) *$' || true)
    expect "cases left out" "$unchecked" ""
    [ "$(grep -c ' passed$' $work/conformance)" -ge 40 ]
    disconnect_all
    target_stop
    if [ $state = whole ]; then
        rm "${files[2]}"
        target_start
        target_logged 'pool-disk2'
    fi
done
rm -f "${files[@]}"
