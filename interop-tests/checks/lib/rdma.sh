# The RDMA network of the guest, by Soft-RoCE (rxe). Sourced by lib.sh.
#
# A switch with three cables: the target is at port1, its hosts are at host1 (where connections go that say nothing else) and host2.
# Soft-RoCE of these kernels works in the first network namespace only, so that all ends are there, and rules of routing make each end's
# address local on its own device alone: packets between them cross the switch like those of real machines. `cable host1 down` pulls a
# cable. (Taking the end itself down would break its Soft-RoCE for good: a packet of the connection manager that cannot be sent puts that
# queue pair into the error state.)
#
# `alone` is a device without a cable, which reaches itself: for programs that need one device for both ends.

port_address=10.8.0.1
port_address6=fd00:8::1
host1_address=10.8.0.11
host1_address6=fd00:8::11
host2_address=10.8.0.12
host2_address6=fd00:8::12
alone_address=10.8.1.1

# rdma_modules HOST_OR_TARGET...: Soft-RoCE with what it needs. It asks for crc32 by a name that only this module answers to. Verbs for
# programs come before the connection manager: so a device that is removed is first taken from the latter, which tells its users.
rdma_modules() {
    modprobe crc32_generic
    modprobe -a rdma_rxe ib_uverbs rdma_ucm dummy veth bridge sch_ingress cls_matchall act_gact "$@"
}

# rdma_up: loads the modules and makes the network. Once.
rdma_up() {
    local end device number table=100
    [ ! -e /sys/class/net/port1 ] || return 0
    rdma_modules nvme_rdma
    # What comes in may be from an address that is local, elsewhere.
    echo 1 >/proc/sys/net/ipv4/conf/all/accept_local
    {
        echo "link add fabric mtu 4200 type bridge forward_delay 0 mcast_snooping 0"
        echo "link set fabric up"
        echo "link add alone mtu 4200 type dummy"
        echo "address add $alone_address/24 dev alone"
        echo "link set alone up"
    } >"$work/ip"
    echo "address add fd00:9::1/64 dev alone nodad" >"$work/ip6"
    for end in port1:1 host1:11 host2:12; do
        device=${end%:*} number=${end#*:}
        {
            echo "link add $device mtu 4200 type veth peer name sw-$device mtu 4200"
            echo "link set sw-$device master fabric up"
            echo "link set $device up"
            echo "address add 10.8.0.$number/32 dev $device"
            echo "rule add pref 100 iif $device to 10.8.0.$number lookup local"
            echo "rule add pref 200 oif $device lookup $table"
            echo "rule add pref 200 from 10.8.0.$number lookup $table"
            echo "route add 10.8.0.0/24 dev $device src 10.8.0.$number table $table"
        } >>"$work/ip"
        {
            echo "address add fd00:8::$number/128 dev $device nodad"
            echo "rule add pref 100 iif $device to fd00:8::$number lookup local"
            echo "rule add pref 200 oif $device lookup $table"
            echo "rule add pref 200 from fd00:8::$number lookup $table"
            echo "route add fd00:8::/64 dev $device src fd00:8::$number table $table"
        } >>"$work/ip6"
        table=$((table + 1))
    done
    # All else is as ever; what names no device goes by host1, whose table is 101.
    printf 'rule add pref 300 not to %s lookup local\nrule add pref 400 lookup 101\nrule del pref 0\n' 10.8.0.0/24 >>"$work/ip"
    printf 'rule add pref 300 not to %s lookup local\nrule add pref 400 lookup 101\nrule del pref 0\n' fd00:8::/64 >>"$work/ip6"
    ip -batch "$work/ip"
    ip -6 -batch "$work/ip6"
    neighbours
    in_order
    # For `cable`, but now: it changes the kernel's code, which the emulator does not always bear while packets are on their way.
    printf 'qdisc add dev %s clsact\n' port1 host1 host2 | tc -batch -
    for device in port1 host1 host2 alone; do rdma link add "rxe-$device" type rxe netdev $device; done
}

# in_order: whatever processor sends a packet, one alone takes it on, at every hop: two would swap packets that one sends after the other from
# both. Soft-RoCE answers that by sending all again from the first that is missing, and that of 6.1 carries out registrations a second time
# then, finds them there ("mr ... not free") and breaks the connection.
in_order() {
    local queue
    for queue in /sys/class/net/{port1,host1,host2,sw-port1,sw-host1,sw-host2}/queues/rx-*/rps_cpus; do echo 1 >"$queue"; done
}

# swapped: how many packets have come to the devices out of order since they were made. Those that come twice say nothing: where the machine
# stands still for a while, Soft-RoCE waits no longer and sends again.
swapped() { cat /sys/class/infiniband/rxe-*/ports/1/hw_counters/{out_of_seq_request,rcvd_seq_err} | awk '{ sum += $1 } END { print sum }'; }

# neighbours: each end knows where the others are. The kernel's RDMA misses an answer to that question that comes as fast as it does here, and
# looks again when the patience of whoever wants to connect is over: 3 s of the kernel's host.
neighbours() {
    local port host1 host2
    port=$(<"/sys/class/net/port1/address") host1=$(<"/sys/class/net/host1/address") host2=$(<"/sys/class/net/host2/address")
    ip -batch - <<NEIGHBOURS
neighbour replace $port_address lladdr $port dev host1 nud reachable
neighbour replace $port_address lladdr $port dev host2 nud reachable
neighbour replace $host1_address lladdr $host1 dev port1 nud reachable
neighbour replace $host2_address lladdr $host2 dev port1 nud reachable
neighbour replace $port_address6 lladdr $port dev host1 nud reachable
neighbour replace $port_address6 lladdr $port dev host2 nud reachable
neighbour replace $host1_address6 lladdr $host1 dev port1 nud reachable
neighbour replace $host2_address6 lladdr $host2 dev port1 nud reachable
NEIGHBOURS
}

# rdma_resources DEVICE: what is in use on a device, "pd 1 cq 1 qp 1 cm_id 0 mr 0 ctx 0 srq 0" while nobody uses it.
rdma_resources() { rdma resource show "$1" | sed "s/^[0-9]*: $1: //; s/ *$//"; }

# cable DEVICE up|down: pulls it, or plugs it in. The device sees that, and its packets vanish, where by themselves they would fail in the
# moments before it does: in Linux 6.12 that breaks Soft-RoCE as described above.
cable() {
    case $2 in
        down)
            tc filter add dev "$1" egress matchall action trap
            ip link set "sw-$1" down
            ;;
        up)
            ip link set "sw-$1" up
            # Before the device has noticed, packets still fail.
            wait_for 5 plugged_in "$1"
            nap 0.1
            tc filter del dev "$1" egress
            ;;
    esac
}

plugged_in() { holds "/sys/class/net/$1/operstate" up; }

# cables_up: all of them, again.
cables_up() {
    local end
    for end in port1 host1 host2; do
        (( $(<"/sys/class/net/sw-$end/flags") & 1 )) || cable $end up
    done
}

# connected, unconnected, one_host: whether anybody is connected to the target; one alone, with an admin queue and an I/O queue.
connections() { rdma resource show qp link rxe-port1 | grep -c ' type RC ' || true; }
connected() { [ "$(connections)" != 0 ]; }
unconnected() { [ "$(connections)" = 0 ]; }
one_host() { [ "$(connections)" = 2 ]; }

# target_uses: descriptors of the target, and what connections have on its device. Nothing of a connection stays when that is gone.
target_uses() {
    local files=("/proc/$(target_pid)/fd/"*)
    echo "descriptors ${#files[@]} $(rdma_resources rxe-port1 | sed 's/mr [0-9]* //')"
}

# target_registrations: how many pieces of its memory the target has registered. They stay as long as the memory.
target_registrations() { rdma_resources rxe-port1 | sed 's/.* mr \([0-9]*\) .*/\1/'; }

# target_memory: resident, in MiB.
target_memory() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$(target_pid)/status"; }

# uses_again WANTED: the target uses what it did before.
uses_again() { [ "$(target_uses)" = "$1" ]; }
