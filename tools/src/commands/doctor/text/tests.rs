use std::time::Duration;

use super::*;
use crate::commands::doctor::{
    gpu::Gpus,
    judge::judge,
    made_up::{connectx, gpu, plain, soft_roce},
    reach::Step,
};

const MACHINE: &str = "\
Machine
  kernel               Linux 6.12.1-amd64, x86_64
  cores                16
  memory               64 GiB, 60 GiB available
  CRC-32C              x86_64-avx512-vpclmulqdq
  parity               avx2 gfni
  huge pages           transparent where asked for, which kvof does; 0 reserved
  io_uring             yes, with DEFER_TASKRUN
  open files           1024, can be raised to 524288
";

const REST: &str = "

Linux as an NVMe host (kvof's own commands do without)
  nvme-tcp             loaded
  nvme-rdma            modprobe nvme_rdma loads it

GPU and DPU
  GPUs on PCI          none of NVIDIA
  CUDA                 not installed
  nvidia_peermem       not loaded
  DOCA                 not installed";

#[test]
fn a_machine_without_rdma() {
    let rdma = "  locked memory        8 MiB

RDMA
  libibverbs.so.1      not there
  librdmacm.so.1       not there
  verbs for programs   no: modprobe ib_uverbs
  connections          no: modprobe rdma_ucm
  devices              none";
    assert_eq!(report(&plain()), format!("{MACHINE}{rdma}{REST}"));
}

#[test]
fn a_card_with_its_port_and_gids() {
    let rdma = "  locked memory        no limit

RDMA
  libibverbs.so.1      /usr/lib/x86_64-linux-gnu/libibverbs.so.1.14.44.0
  librdmacm.so.1       /usr/lib/x86_64-linux-gnu/librdmacm.so.1.3.44.0
  verbs for programs   yes
  connections          yes
  devices              mlx5_0

Device
  name                 mlx5_0
  kind                 channel adapter
  driver               mlx5_core
  firmware             28.39.1002
  board                MT_0000000838
  node GUID            0c42:a103:0065:1a2b
  NUMA node            1
  character device     /dev/infiniband/uverbs0
  memory regions       16777216 of any size
  queue pairs          131072, 32768 requests each, 30 pieces a request
  completion queues    16777216 of 4194303 entries
  shared receive       8388608 queues
  memory windows       16777216, type 2B
  RDMA READs at once   16 of its own, 16 of its peer
  send and invalidate  yes
  dma-buf              yes
  port 1: ACTIVE, LinkUp, Ethernet, 100 Gb/sec (4X EDR), MTU 4096 of 4096, on ens1f0np0 (MTU 9000)
    GID  TYPE     NETDEV     IP ADDRESS  VALUE
      0  RoCE v1  ens1f0np0  -           fe80::e42:a1ff:fe65:1a2b
      1  RoCE v2  ens1f0np0  -           fe80::e42:a1ff:fe65:1a2b
      3  RoCE v2  ens1f0np0  10.8.0.1    ::ffff:10.8.0.1";
    assert_eq!(report(&connectx()), format!("{MACHINE}{rdma}{REST}"));
}

#[test]
fn findings_and_their_sum() {
    let text = findings(&judge(&soft_roce()));
    let expected = "
Findings
  warning  rxe0 port 1: RDMA packets carry 1024 bytes, since ens3 has an MTU of 1500; 4200 gives 4096
           → ip link set ens3 mtu 4200 (or 9000), on hosts and switches alike; connections that exist keep theirs";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("\n  note     rxe0: it is Soft-RoCE"), "{text}");
    assert!(text.contains("\n  warning  locked memory: what is started from here may lock 8 MiB"), "{text}");
    assert!(text.ends_with("\n  nothing is broken; 2 warnings"), "{text}");
    assert!(!text.contains("problem"), "{text}");
    assert_eq!(findings(&judge(&connectx())), "\nFindings\n  nothing is broken");
}

#[test]
fn a_device_that_is_not_understood() {
    let mut facts = soft_roce();
    facts.rdma.devices[0].limits = None;
    facts.rdma.devices[0].ports[0].gids.clear();
    facts.rdma.devices[0].ports[0].mtu = None;
    facts.rdma.devices[0].ports[0].rate.clear();
    let text = report(&facts);
    assert!(text.contains("\n  port 1: ACTIVE, LinkUp, Ethernet, on ens3 (MTU 1500)\n    no GIDs"), "{text}");
}

#[test]
fn gpus_line_by_line() {
    let mut facts = connectx();
    facts.machine.gpus = vec!["0000:17:00.0".to_owned()];
    facts.machine.doca = Some("/opt/mellanox/doca/lib64/libdoca_common.so.2".into());
    facts.gpus = Gpus { devices: vec![gpu()], driver: true, error: None };
    let expected = "

GPU and DPU
  GPUs on PCI          0000:17:00.0
  CUDA                 12.4 known to the driver
  nvidia_peermem       not loaded
  DOCA                 /opt/mellanox/doca/lib64/libdoca_common.so.2, not used yet
  cuda:0               NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0, PCI 0000:17:00.0, RDMA by dma-buf";
    let text = report(&facts);
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn the_way_to_an_address() {
    let step = |name, ok, detail: &str, fix: &[&str], ms: Option<u64>| Step {
        name,
        ok,
        detail: detail.to_owned(),
        fix: fix.iter().map(|line| (*line).to_owned()).collect(),
        time: ms.map(Duration::from_millis),
    };
    let reach = Reach {
        address: "tcp://storage:4420".to_owned(),
        steps: vec![
            step("name", true, "storage is 10.0.0.7", &[], Some(2)),
            step("TCP", false, "10.0.0.7:4420: Connection refused", &["start the target"], None),
        ],
    };
    let expected = "
tcp://storage:4420
  ok      name                 storage is 10.0.0.7 (2 ms)
  FAILED  TCP                  10.0.0.7:4420: Connection refused
           → start the target";
    assert_eq!(super::reach(&reach), expected);
    assert!(!reach.succeeded());
}
