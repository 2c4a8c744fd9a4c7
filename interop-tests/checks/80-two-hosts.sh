# Two hosts, by NQN and identifier, on one subsystem at the same time: both see the same data, and one's leaving disturbs nothing.
# transport: tcp rdma
# cpus: 2
# limit: 90
target_start
# With multipath the kernel would make one disk of both; without it each connection has a node of its own.
host_modules N
# Each by a way of its own: nvme-cli 2.3 does not look at the host when it asks whether there is a connection already.
case $transport in
    tcp) way_a=(-a $address) way_b=(-a $address6) ;;
    rdma) way_a=(-w $host1_address) way_b=(-w $host2_address) ;;
esac
connect $kv --hostnqn=$host_a --hostid=$hostid_a "${way_a[@]}"
a=$ctrl
connect $kv --hostnqn=$host_b --hostid=$hostid_b "${way_b[@]}"
b=$ctrl
[ "$(<"/sys/class/nvme/$a/cntlid")" != "$(<"/sys/class/nvme/$b/cntlid")" ]
# Only the first namespace's nodes matter: ngXnY of each controller, with the same nsid.
node_of() { local nsid; for nsid in /sys/class/nvme/$1/nvme*n*/nsid; do holds "$nsid" 1 && { nsid=${nsid%/nsid}; node=${nsid##*/nvme}; return 0; }; done; return 1; }
wait_for 10 node_of $a; ng_a=/dev/ng$node
wait_for 10 node_of $b; ng_b=/dev/ng$node
echo "$a $ng_a, $b $ng_b"
[ $ng_a != $ng_b ]

head -c 5000 /dev/urandom >$work/value
nvme io-passthru $ng_a -n 1 --opcode=0x01 --cdw2=0x74 --cdw11=1 --cdw10=5000 -l 5000 -w -i $work/value
nvme io-passthru $ng_b -n 1 --opcode=0x02 --cdw2=0x74 --cdw11=1 --cdw10=5000 -l 5000 -r -b >$work/read
cmp $work/value $work/read
nvme io-passthru $ng_b -n 1 --opcode=0x10 --cdw2=0x74 --cdw11=1

"$KVOF_GUEST" loop-io $ng_a --seconds 5 --tag 1 >$work/a &
loop_a=$!
"$KVOF_GUEST" loop-io $ng_b --seconds 2 --tag 2 >$work/b
cat $work/b
json $work/b '.interrupted == 0'
nvme disconnect -d $b
wait $loop_a
cat $work/a
json $work/a '.interrupted == 0'
# kernel-log: Found shared namespace [0-9]+, but multipathing not supported
