# Discovery over RDMA, IPv4 and IPv6, by nvme-cli and by `kvof`: entries of both transports, the subsystems that the host may use, and no others.
# transport: rdma
target_start
for traddr in $address $address6; do
    nvme discover -t rdma -a $traddr -s 4420 --hostnqn=$host_b --hostid=$hostid_b -o json >$work/log.json
    json $work/log.json \
        "[.records[] | select(.trtype == \"rdma\" and .traddr == \"$traddr\" and .subtype == \"nvme subsystem\") | .subnqn] | sort == ([\"$block\", \"$kv\"] | sort)" \
        "[.records[] | select(.trtype == \"tcp\" and .traddr == \"127.0.0.1\" and .subtype == \"nvme subsystem\") | .subnqn] | sort == ([\"$block\", \"$kv\"] | sort)" \
        "[.records[] | select(.trtype == \"rdma\" and .subtype == \"current discovery subsystem\" and .subnqn == \"$discovery\")] | length >= 1" \
        '[.records[] | select(.trsvcid != "4420")] == []' \
        "[.records[] | select(.traddr == \"$address6\" and .adrfam != \"ipv6\" or .traddr == \"$address\" and .adrfam != \"ipv4\")] == []"
done
# What only entries of RDMA have, as text: newer nvme-cli has it in JSON too.
nvme discover -t rdma -a $address -s 4420 --hostnqn=$host_b --hostid=$hostid_b >$work/log
for line in 'rdma_qptype: connected' 'rdma_cms:    rdma-cm' 'rdma_pkey: 0x0000' 'trtype:  tcp'; do
    grep -q "^$line" $work/log || { cat $work/log; fail "no line '$line'"; }
done
# A host sees the subsystem that only it may use.
nvme discover -t rdma -a $address -s 4420 --hostnqn=$host_a --hostid=$hostid_a -o json >$work/log.json
json $work/log.json "[.records[].subnqn] | index(\"$private\") != null"
# Over TCP the same log tells of the ports of RDMA.
nvme discover -t tcp -a 127.0.0.1 -s 4420 --hostnqn=$host_b --hostid=$hostid_b -o json >$work/log.json
json $work/log.json "[.records[] | select(.trtype == \"rdma\" and .traddr == \"$address\") | .subnqn] | index(\"$kv\") != null"

"$KVOF" discover $target | tee $work/log
grep -E "rdma.*$kv|$kv.*rdma" $work/log
grep -E "tcp.*$kv|$kv.*tcp" $work/log
"$KVOF" discover "rdma://[$address6]:4420" | grep "$kv"
# `auto` takes RDMA where discovery has it.
"$KVOF" info auto://127.0.0.1:4420 --nqn $kv | tee $work/log
grep "rdma://" $work/log
