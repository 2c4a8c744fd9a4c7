# The whole conformance suite through the kernel's passthrough, on namespaces with two different limits.
# transport: tcp rdma
# limit: 120
target_start
connect $kv
for nsid in 1 7; do
    node $kv $nsid
    "$KVOF_GUEST" conformance /dev/ng$node | tee $work/conformance
    # Nothing else may go unchecked: KVKML cannot be exceeded at 16, and the kernel sends no foreign NSID.
    unchecked=$(sed -n 's/^\(.*[^ ]\) .* ms  skipped: .*/\1/p' $work/conformance | grep -vE '^(key\.length_over_kvkml|nsid\.(zero|broadcast|unused)) *$' || true)
    expect "cases left out" "$unchecked" ""
    [ "$(grep -c ' passed$' $work/conformance)" -ge 40 ]
done
