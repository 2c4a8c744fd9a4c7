# A persistent connection to discovery stays, with keep alive, and reads the log again.
# transport: tcp rdma
target_start
nvme discover -t $transport -a $address -s 4420 -p -k 2 >$work/log
wait_for 5 compgen -G '/sys/class/nvme/nvme*/cntrltype' >/dev/null
ctrl=$(basename /sys/class/nvme/nvme*)
expect cntrltype "$(<"/sys/class/nvme/$ctrl/cntrltype")" discovery
nap 4
state_is "$ctrl" live
nvme discover -d "$ctrl" -t $transport -a $address -s 4420 -o json >$work/log.json
json $work/log.json "[.records[].subnqn] | index(\"$kv\") != null"
