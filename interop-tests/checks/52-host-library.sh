# The whole conformance suite by the host library over RDMA, on two namespaces in memory and on a 4+1 pool; values up to 1 MiB of every length.
# transport: rdma
# limit: 180
# target: may end
suite() {
    "$KVOF" conformance $target --nqn $1 --nsid $2 --profile kvof | tee $work/conformance
    ! grep -qi failed $work/conformance || grep -q ' 0 failed' $work/conformance
}
target_start
suite $kv 1
suite $kv 7
"$KVOF_GUEST" max-value $target --nqn $kv | tee $work/max
grep -q 'largest value 1048576 bytes' $work/max
for (( number = 0; number < 5; number++ )); do files[number]=$work/pool-disk$number; done
"$KVOF" format --name flash --profile 4+1 --size 96MiB "${files[@]}"
pool_config "${files[@]}"
target_stop
target_start
suite $pool_subsystem 1
target_stop
rm -f "${files[@]}"
