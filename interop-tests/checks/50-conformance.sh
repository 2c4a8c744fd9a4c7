# The whole conformance suite through the kernel's passthrough, on namespaces with two different limits.
# limit: 120
target_start
connect $kv
for nsid in 1 7; do
    node $kv $nsid
    "$KVOF_GUEST" conformance /dev/ng$node
done
