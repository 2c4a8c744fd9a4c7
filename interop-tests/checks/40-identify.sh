# What nvme-cli reads of the controller and its namespaces has the fields that hosts rely on.
# transport: tcp rdma
target_start
connect $kv
node $kv 1
dev=/dev/$ctrl

nvme id-ctrl $dev -o json >$work/id-ctrl
json $work/id-ctrl \
    ".cntlid == $(<"/sys/class/nvme/$ctrl/cntlid")" \
    ".subnqn == \"$kv\"" \
    '.ver >= 131072' \
    '.mdts == 8' \
    '.kas > 0' \
    '.sqes == 102 and .cqes == 68' \
    '.ioccsz >= 4 and .iorcsz >= 1 and .icdoff == 0' \
    '.maxcmd > 0' \
    '.sgls % 4 != 0' \
    "(.sgls / 4 | floor) % 2 == $([ $transport = rdma ] && echo 1 || echo 0)" \
    '(.lpa / 2 | floor) % 2 == 1' \
    '.nn >= 7' \
    '.mn | startswith("kvof")'

nvme list-ns $dev -o json >$work/list
json $work/list '[.nsid_list[].nsid] == [1, 7]'
nvme list-ns $dev --csi=1 -o json >$work/list
json $work/list '[.nsid_list[].nsid] == [1, 7]'
nvme list-ns $dev --csi=1 -n 1 -o json >$work/list || true
nvme list-ns $dev --csi=0 -o json >$work/list
json $work/list '(.nsid_list // []) == []'

for nsid in 1 7; do
    nvme ns-descs $dev -n $nsid -o json >$work/descs
    json $work/descs \
        '[.["ns-descs"][] | select(.type == "csi") | .csi] | . == ["1"] or . == ["0x1"]' \
        '[.["ns-descs"][] | select(.type == "uuid")] | length == 1' \
        '[.["ns-descs"][] | select(.type == "nguid" or .type == "eui64")] | length >= 1'
    nvme cmdset-ind-id-ns $dev -n $nsid -o json >$work/independent
    json $work/independent '.nstat % 2 == 1'

    # CNS 05h, CSI 1: NVMe-cli has no command of its own for it.
    nvme admin-passthru $dev --opcode=0x06 -n $nsid --cdw10=0x05 --cdw11=0x01000000 -l 4096 -r -b >$work/kv-ns 2>/dev/null
    read -r kvkml kvvml mnks <<<"$(od -An -v -tu2 -j72 -N2 $work/kv-ns) $(od -An -v -tu4 -j76 -N8 $work/kv-ns)"
    case $nsid in
        1) expect "KVKML KVVML MNKS" "$kvkml $kvvml $mnks" "16 1048576 0" ;;
        7) expect "KVKML KVVML MNKS" "$kvkml $kvvml $mnks" "16 65536 10000" ;;
    esac
    read -r nsze <<<"$(od -An -v -tu8 -N8 $work/kv-ns)"
    [ "$nsze" -gt 0 ]
done
refuses nvme ns-descs $dev -n 2

nvme id-iocs $dev | tee $work/iocs
# NVM and Key Value; newer versions spell the vector out.
grep -qE 'Combination\[0\]: *(0x)?3$|Key Value' $work/iocs

nvme effects-log $dev --csi=1 -b >$work/effects
for entry in 01:3 02:1 06:1 10:3 14:1; do
    opcode=$((16#${entry%:*}))
    read -r effects <<<"$(od -An -v -tu4 -j$((1024 + 4 * opcode)) -N4 $work/effects)"
    expect "effects of I/O opcode ${entry%:*}h" "$effects" "${entry#*:}"
done
nvme effects-log $dev --csi=1 | sed -n 1,20p
expect "number of queues" "$(nvme get-feature $dev -f 7 | grep -c 'Number of Queues')" 1
nvme smart-log $dev -o json >$work/smart
json $work/smart '.percent_used != null'
nvme error-log $dev -o json >/dev/null
