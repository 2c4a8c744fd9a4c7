# Values of every size up to the kernel's limit, and one byte more: refused by the kernel beyond MDTS, by the target beyond KVVML.
# transport: tcp rdma
# limit: 120
target_start
connect $kv
node $kv 1
"$KVOF_GUEST" max-value /dev/ng$node | tee $work/max
grep -q 'largest value 1048576 bytes' $work/max
node $kv 7
"$KVOF_GUEST" max-value /dev/ng$node | tee $work/max
grep -q 'largest value 65536 bytes' $work/max
