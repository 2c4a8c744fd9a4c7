# The cases that move data again, over a connection with header and data digests.
# limit: 120
target_start
connect $kv --hdr-digest --data-digest
node $kv 1
"$KVOF_GUEST" conformance /dev/ng$node --filter value
