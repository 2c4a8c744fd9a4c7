# The tests of the crates that need an RDMA device, on Soft-RoCE: none of them is skipped.
# transport: rdma
# cpus: 2
# limit: 240
export KVOF_RDMA_ADDRESS=$alone_address
before=$(rdma_resources rxe-alone)
IFS=: read -ra programs <<<"$KVOF_RDMA_TESTS"
[ ${#programs[@]} -gt 0 ]
for program in "${programs[@]}"; do
    echo "== ${program##*/}"
    "$program" --test-threads=1 --nocapture 2>&1 | tee $work/tests
    grep -q '^test result: ok. [1-9]' $work/tests
    if grep skipped: $work/tests; then fail "a test was skipped"; fi
done
# What they made on the device is gone with them.
expect "resources of the device" "$(rdma_resources rxe-alone)" "$before"
