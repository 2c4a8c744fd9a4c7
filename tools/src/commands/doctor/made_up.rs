//! Machines that do not exist, for tests.

use super::{
    Facts,
    gpu::{Gpu, Gpus},
    machine::{Cpu, IoUring, Limit, Limits, Machine, Module},
    rdma::{Device, Gid, LibraryState, Limits as DeviceLimits, Netdev, Port, Rdma},
};

/// A machine with everything that kvof likes, and no RDMA.
pub(super) fn plain() -> Facts {
    let library = |name: &'static str| LibraryState {
        name,
        path: None,
        error: Some(format!("{name}: cannot open shared object file: No such file or directory")),
    };
    Facts {
        machine: Machine {
            kernel: "6.12.1-amd64".to_owned(),
            architecture: "x86_64".to_owned(),
            cores: 16,
            memory: 64 << 30,
            memory_available: 60 << 30,
            cpu: Cpu { crc: "x86_64-avx512-vpclmulqdq".to_owned(), parity: "avx2 gfni".to_owned() },
            transparent_huge_pages: "madvise".to_owned(),
            reserved_huge_pages: 0,
            io_uring: IoUring { disabled: Some(0), ring: Some("deferred"), error: None },
            limits: Limits {
                locked_memory: Limit { soft: Some(8 << 20), hard: Some(8 << 20) },
                open_files: Limit { soft: Some(1024), hard: Some(524_288) },
            },
            may_lock_any: false,
            modules: [
                ("ib_uverbs", Module::Available),
                ("rdma_ucm", Module::Available),
                ("rdma_rxe", Module::Available),
                ("mlx5_ib", Module::Available),
                ("nvme_tcp", Module::Loaded),
                ("nvme_rdma", Module::Available),
                ("nvidia_peermem", Module::Absent),
            ]
            .into(),
            netdevs: vec!["ens3".to_owned()],
            ..Machine::default()
        },
        rdma: Rdma {
            libraries: vec![library("libibverbs.so.1"), library("librdmacm.so.1")],
            connection_device_error: Some("/dev/infiniband/rdma_cm: No such file or directory".to_owned()),
            ..Rdma::default()
        },
        gpus: Gpus { devices: Vec::new(), driver: false, error: Some("no CUDA driver (libcuda.so.1)".to_owned()) },
    }
}

/// A GPU whose memory is exported as dma-buf.
pub(super) fn gpu() -> Gpu {
    Gpu {
        device: 0,
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        pci: "0000:17:00.0".to_owned(),
        memory: 80 << 30,
        compute_capability: (9, 0),
        cuda: "12.4".to_owned(),
        dma_buf: true,
        gpu_direct: true,
    }
}

/// The same with rdma-core, the modules, and no device yet.
fn with_rdma_core() -> Facts {
    let mut facts = plain();
    let library = |name: &'static str, file: &str| LibraryState {
        name,
        path: Some(format!("/usr/lib/x86_64-linux-gnu/{file}").into()),
        error: None,
    };
    facts.rdma = Rdma {
        libraries: vec![
            library("libibverbs.so.1", "libibverbs.so.1.14.44.0"),
            library("librdmacm.so.1", "librdmacm.so.1.3.44.0"),
        ],
        kernel_verbs: true,
        kernel_connections: true,
        ..Rdma::default()
    };
    facts
}

/// A ConnectX card with jumbo frames, and unlimited locked memory: nothing to complain of.
pub(super) fn connectx() -> Facts {
    let mut facts = with_rdma_core();
    facts.machine.limits.locked_memory = Limit::default();
    let gid = |index, kind, gid: &str, address: Option<&str>| Gid {
        index,
        kind,
        gid: gid.to_owned(),
        address: address.map(str::to_owned),
        netdev: Some("ens1f0np0".to_owned()),
    };
    facts.rdma.devices = vec![Device {
        name: "mlx5_0".to_owned(),
        driver: Some("mlx5_core".to_owned()),
        kind: "channel adapter".to_owned(),
        firmware: Some("28.39.1002".to_owned()),
        board: Some("MT_0000000838".to_owned()),
        node_guid: Some("0c42:a103:0065:1a2b".to_owned()),
        numa_node: Some(1),
        uverbs: Some("uverbs0".to_owned()),
        ports: vec![Port {
            number: 1,
            state: "ACTIVE".to_owned(),
            physical_state: "LinkUp".to_owned(),
            link_layer: "Ethernet".to_owned(),
            rate: "100 Gb/sec (4X EDR)".to_owned(),
            mtu: Some(4096),
            max_mtu: Some(4096),
            netdevs: vec![Netdev { name: "ens1f0np0".to_owned(), mtu: Some(9000) }],
            gids: vec![
                gid(0, "RoCE v1", "fe80::e42:a1ff:fe65:1a2b", None),
                gid(1, "RoCE v2", "fe80::e42:a1ff:fe65:1a2b", None),
                gid(3, "RoCE v2", "::ffff:10.8.0.1", Some("10.8.0.1")),
            ],
        }],
        limits: Some(DeviceLimits {
            max_mr: 16_777_216,
            max_mr_size: u64::MAX,
            max_qp: 131_072,
            max_qp_wr: 32_768,
            max_sge: 30,
            max_cq: 16_777_216,
            max_cqe: 4_194_303,
            max_srq: 8_388_608,
            max_mw: 16_777_216,
            max_reads: 16,
            max_reads_served: 16,
            memory_windows_2b: true,
            remote_invalidate: true,
        }),
        dma_buf: Some(true),
        ..Device::default()
    }];
    facts
}

/// Soft-RoCE on a network device with the usual MTU.
pub(super) fn soft_roce() -> Facts {
    let mut facts = with_rdma_core();
    facts.rdma.devices = vec![Device {
        name: "rxe0".to_owned(),
        driver: Some("rdma_rxe".to_owned()),
        kind: "channel adapter".to_owned(),
        node_guid: Some("5054:00ff:fe12:3456".to_owned()),
        uverbs: Some("uverbs0".to_owned()),
        ports: vec![Port {
            number: 1,
            state: "ACTIVE".to_owned(),
            physical_state: "LinkUp".to_owned(),
            link_layer: "Ethernet".to_owned(),
            rate: "2.5 Gb/sec (1X SDR)".to_owned(),
            mtu: Some(1024),
            max_mtu: Some(4096),
            netdevs: vec![Netdev { name: "ens3".to_owned(), mtu: Some(1500) }],
            gids: vec![Gid {
                index: 0,
                kind: "RoCE v2",
                gid: "::ffff:10.8.0.1".to_owned(),
                address: Some("10.8.0.1".to_owned()),
                netdev: Some("ens3".to_owned()),
            }],
        }],
        limits: Some(DeviceLimits {
            max_mr: 524_287,
            max_mr_size: u64::MAX,
            max_qp: 1_048_560,
            max_qp_wr: 1_048_576,
            max_sge: 32,
            max_cq: 1_048_576,
            max_cqe: 32_767,
            max_srq: 917_503,
            max_mw: 524_287,
            max_reads: 128,
            max_reads_served: 128,
            memory_windows_2b: true,
            remote_invalidate: true,
        }),
        dma_buf: Some(false),
        ..Device::default()
    }];
    facts
}
