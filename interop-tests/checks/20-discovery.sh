# nvme discover over IPv4 and IPv6 finds the subsystems that the host may use, and nothing else.
target_start
for address in 127.0.0.1 ::1; do
    nvme discover -t tcp -a $address -s 4420 --hostnqn=$host_b --hostid=$hostid_b -o json >$work/log.json
    json $work/log.json \
        "[.records[] | select(.traddr == \"$address\" and .subtype == \"nvme subsystem\") | .subnqn] == [\"$block\", \"$kv\"] or
         [.records[] | select(.traddr == \"$address\" and .subtype == \"nvme subsystem\") | .subnqn] == [\"$kv\", \"$block\"]" \
        "[.records[] | select(.subtype == \"current discovery subsystem\" and .subnqn == \"$discovery\")] | length >= 1" \
        "[.records[] | select(.trtype != \"tcp\" or .trsvcid != \"4420\" or .sectype != \"none\")] == []" \
        "[.records[] | select(.traddr == \"::1\" and .adrfam != \"ipv6\" or .traddr == \"127.0.0.1\" and .adrfam != \"ipv4\")] == []"
done
# A host sees the subsystem that only it may use.
nvme discover -t tcp -a 127.0.0.1 -s 4420 --hostnqn=$host_a --hostid=$hostid_a -o json >$work/log.json
json $work/log.json "[.records[].subnqn] | index(\"$private\") != null"
