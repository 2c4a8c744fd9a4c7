# Who may connect is decided by the host's NQN, and a subsystem that does not exist is refused.
# transport: tcp rdma
target_start
refuses nvme connect -t $transport -a $address -s 4420 -n $private --hostnqn=$host_b --hostid=$hostid_b
refuses nvme connect -t $transport -a $address -s 4420 -n $kv-not
no_controllers
connect $private --hostnqn=$host_a --hostid=$hostid_a
node $private 1
# kernel-log: Connect (for subsystem .* is not allowed|Invalid Data Parameter|rejected)|failed to connect queue: 0
