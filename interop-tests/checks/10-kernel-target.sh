# The kernel's own target and host talk to each other: what fails here is the guest's fault, not ours.
# transport: tcp rdma
modprobe -a nvmet_$transport null_blk
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
nvmet=/sys/kernel/config/nvmet
mkdir $nvmet/subsystems/reference $nvmet/subsystems/reference/namespaces/1 $nvmet/ports/1
echo 1 >$nvmet/subsystems/reference/attr_allow_any_host
echo /dev/nullb0 >$nvmet/subsystems/reference/namespaces/1/device_path
echo 1 >$nvmet/subsystems/reference/namespaces/1/enable
echo $transport >$nvmet/ports/1/addr_trtype
echo ipv4 >$nvmet/ports/1/addr_adrfam
echo $address >$nvmet/ports/1/addr_traddr
echo 4421 >$nvmet/ports/1/addr_trsvcid
ln -s $nvmet/subsystems/reference $nvmet/ports/1/subsystems/

nvme discover -t $transport -a $address -s 4421 -o json >$work/log.json
json $work/log.json '[.records[].subnqn] | index("reference") != null'
digests=()
[ $transport = rdma ] || digests=(-g -G)
connect reference -s 4421 "${digests[@]}"
node reference 1
dd if=/dev/zero of=/dev/nvme$node bs=64k count=32 oflag=direct
dd if=/dev/nvme$node of=/dev/null bs=1M count=2 iflag=direct
nvme disconnect -n reference

rm $nvmet/ports/1/subsystems/reference
rmdir $nvmet/ports/1 $nvmet/subsystems/reference/namespaces/1 $nvmet/subsystems/reference
modprobe -r null_blk nvmet_$transport
