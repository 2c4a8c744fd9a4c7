# The RDMA network of the guest, by Soft-RoCE (rxe). Sourced by lib.sh.
#
# A switch with three cables: the target is at port1, its hosts are at host1 (where connections go that say nothing else) and host2.
# Soft-RoCE of these kernels works in the first network namespace only, so that all ends are there, and rules of routing make each end's
# address local on its own device alone: packets between them cross the switch like those of real machines. `ip link set sw-host1 down`
# pulls a cable. (Taking the end itself down would break its Soft-RoCE for good: a packet of the connection manager that cannot be sent
# puts that queue pair into the error state.)
#
# `alone` is a device without a cable, which reaches itself: for programs that need one device for both ends.

port_address=10.8.0.1
port_address6=fd00:8::1
host1_address=10.8.0.11
host2_address=10.8.0.12
alone_address=10.8.1.1

# rdma_modules HOST_OR_TARGET...: Soft-RoCE with what it needs. It asks for crc32 by a name that only this module answers to.
rdma_modules() {
    modprobe crc32_generic
    modprobe -a rdma_rxe ib_uverbs rdma_ucm dummy veth bridge "$@"
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
    for device in port1 host1 host2 alone; do rdma link add "rxe-$device" type rxe netdev $device; done
}

# rdma_resources DEVICE: what is in use on a device, "pd 1 cq 1 qp 1 cm_id 0 mr 0 ctx 0 srq 0" while nobody uses it.
rdma_resources() { rdma resource show "$1" | sed "s/^[0-9]*: $1: //; s/ *$//"; }

# cable DEVICE up|down: the switch's end of it.
cable() { ip link set "sw-$1" "$2"; }

# cables_up: all of them, again.
cables_up() {
    local end
    for end in port1 host1 host2; do
        (( $(<"/sys/class/net/sw-$end/flags") & 1 )) || cable $end up
    done
}
