//! Tests of the control plane as a host sees it: commands go in as queue entries, and time is made up.

mod abort_and_events;
mod connect;
mod discovery;
mod features;
mod hostile;
mod identify;
mod keep_alive;
mod linux;
mod log_pages;
mod pools;
mod reload;
mod reset;
mod transports;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kvof_kv::KvLimits;
use kvof_spec::{
    Csts, FromBytes, IntoBytes, Nqn, Property, Sqe, Status,
    fabrics::{CNTLID_DYNAMIC, ConnectCmd, ConnectData, PropertyGetCmd, PropertySetCmd},
    feature::{FeatureId, FeatureSelect, GetFeaturesCmd, SetFeaturesCmd},
    identify::{Cns, IDENTIFY_SIZE, IdentifyCmd},
    log::{GetLogPageCmd, LogId},
};

use super::*;
use crate::model::{
    KvStorageDef, NamespaceDef, NamespaceKindDef, PortDef, ReferralDef, StorageDef, SubsystemDef, TargetDef,
};

pub(super) const SUBSYSTEM: &str = "nqn.2024-01.com.example:kv";
pub(super) const PRIVATE: &str = "nqn.2024-01.com.example:private";
pub(super) const HOST: &str = "nqn.2024-01.com.example:host";
pub(super) const FRIEND: &str = "nqn.2024-01.com.example:friend";
pub(super) const HOSTID: [u8; 16] = [7; 16];
/// CC as Linux writes it: IOSQES 6, IOCQES 4, CSS 110b, EN.
pub(super) const CC_ENABLE: u64 = 0x0046_0061;
/// The same with CSS 000b.
pub(super) const CC_ENABLE_NVM: u64 = 0x0046_0001;

pub(super) fn nqn(text: &str) -> Nqn {
    text.parse().unwrap()
}

pub(super) fn kv_namespace(nsid: u32) -> NamespaceDef {
    let limits = KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 1000, novg: 4096 };
    namespace(nsid, NamespaceKindDef::Kv { limits, size: 1 << 30, storage: KvStorageDef::Memory })
}

pub(super) fn nvm_namespace(nsid: u32, storage: StorageDef) -> NamespaceDef {
    namespace(nsid, NamespaceKindDef::Nvm { block_size: 4096, size: 1 << 24, storage })
}

fn namespace(nsid: u32, kind: NamespaceKindDef) -> NamespaceDef {
    let mut id = [0xab; 16];
    id[..4].copy_from_slice(&nsid.to_be_bytes());
    NamespaceDef { nsid, uuid: id, nguid: id, kind }
}

pub(super) fn subsystem(name: &str, namespaces: Vec<NamespaceDef>) -> SubsystemDef {
    let (serial, model) = ("S123".into(), "kvof test".into());
    SubsystemDef { nqn: nqn(name), serial, model, allowed_hosts: None, namespaces }
}

/// Two ports, a referral, an open subsystem with KV and NVM namespaces, and one for a single host.
pub(super) fn definition() -> TargetDef {
    let port = |portid, listen: &str| PortDef {
        portid,
        transport: TransportKind::Tcp,
        listen: listen.parse().unwrap(),
        advertise: None,
    };
    let namespaces = vec![kv_namespace(1), nvm_namespace(2, StorageDef::Memory), kv_namespace(9)];
    let private = SubsystemDef { allowed_hosts: Some(vec![nqn(FRIEND)]), ..subsystem(PRIVATE, Vec::new()) };
    TargetDef {
        ports: vec![port(1, "0.0.0.0:4420"), port(2, "[2001:db8::2]:4421")],
        subsystems: vec![subsystem(SUBSYSTEM, namespaces), private],
        referrals: vec![ReferralDef {
            transport: TransportKind::Tcp,
            traddr: "198.51.100.1:8009".parse().unwrap(),
            portid: 77,
        }],
        pools: Vec::new(),
    }
}

/// A target and a clock.
pub(super) struct Rig {
    pub(super) target: Arc<Target>,
    pub(super) now: Instant,
    /// Wake-ups of queues that this rig connected.
    pub(super) wakes: Arc<AtomicUsize>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(definition(), TargetLimits::default())
    }

    pub(super) fn with(def: TargetDef, limits: TargetLimits) -> Self {
        let now = Instant::now();
        Self { target: Target::new(def, limits, now).unwrap(), now, wakes: Arc::default() }
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    pub(super) fn transport(&self) -> QueueTransport {
        self.transport_of(TransportKind::Tcp)
    }

    pub(super) fn transport_of(&self, kind: TransportKind) -> QueueTransport {
        let wakes = Arc::clone(&self.wakes);
        QueueTransport {
            kind,
            portid: 1,
            local: "192.0.2.1:4420".parse().unwrap(),
            peer: "192.0.2.200:50000".parse().unwrap(),
            wake: Arc::new(move || {
                wakes.fetch_add(1, Ordering::Relaxed);
            }),
        }
    }

    pub(super) fn connect(&self, cmd: &ConnectCmd, data: &ConnectData) -> Result<Connected, Reply> {
        self.target.connect(self.now, &cmd.to_sqe(), data.as_bytes(), &self.transport())
    }

    pub(super) fn admin_as(&self, hostnqn: &str, subnqn: &str, kato: u32) -> Result<Host, Reply> {
        let data = ConnectData::new(HOSTID, CNTLID_DYNAMIC, &nqn(subnqn), &nqn(hostnqn));
        let connected = self.connect(&ConnectCmd::new(0, 31, kato), &data)?;
        let ConnectedQueue::Admin(admin) = connected.queue else { panic!("QID 0 is an admin queue") };
        assert_eq!(connected.reply.result, u64::from(admin.cntlid()));
        assert_eq!(connected.sqsize, 32);
        Ok(Host { admin, now: self.now, cid: 0 })
    }

    /// A host with an enabled I/O controller.
    pub(super) fn host(&self) -> Host {
        let mut host = self.admin_as(HOST, SUBSYSTEM, 5000).unwrap();
        host.enable(CC_ENABLE);
        host
    }

    /// A host with an enabled discovery controller.
    pub(super) fn discovery(&self, hostnqn: &str, kato: u32) -> Host {
        let mut host = self.admin_as(hostnqn, kvof_spec::nqn::DISCOVERY_NQN, kato).unwrap();
        host.enable(CC_ENABLE_NVM);
        host
    }

    pub(super) fn io_queue(&self, host: &Host, qid: u16) -> Result<IoQueue, Reply> {
        let data = ConnectData::new(HOSTID, host.admin.cntlid(), &nqn(SUBSYSTEM), &nqn(HOST));
        let connected = self.connect(&ConnectCmd::new(qid, 127, 0), &data)?;
        match connected.queue {
            ConnectedQueue::Io(queue) => Ok(queue),
            ConnectedQueue::Admin(_) => panic!("QID {qid} is an I/O queue"),
        }
    }
}

/// The host's end of an admin queue.
pub(super) struct Host {
    pub(super) admin: AdminQueue,
    pub(super) now: Instant,
    pub(super) cid: u16,
}

impl Host {
    /// Sends a command with the next command identifier and a buffer of `len` bytes.
    pub(super) fn send(&mut self, sqe: impl Into<Sqe>, len: u32) -> AdminOutcome {
        self.cid += 1;
        let sqe = Sqe { cid: self.cid.into(), ..sqe.into() };
        self.admin.handle_command(self.now, &sqe, &[], len)
    }

    /// The reply to a command that completes at once.
    pub(super) fn reply(&mut self, sqe: impl Into<Sqe>, len: u32) -> Reply {
        match self.send(sqe, len) {
            AdminOutcome::Complete(reply) => reply,
            AdminOutcome::Held => panic!("held"),
        }
    }

    pub(super) fn status(&mut self, sqe: impl Into<Sqe>, len: u32) -> Status {
        let reply = self.reply(sqe, len);
        if !reply.status.is_success() {
            assert!(reply.status.dnr(), "{} should not be retried", reply.status);
            assert!(reply.data.is_empty());
        }
        reply.status.code()
    }

    pub(super) fn get(&mut self, property: Property) -> u64 {
        let reply = self.reply(PropertyGetCmd::new(property).unwrap(), 0);
        assert_eq!(reply.status, Status::SUCCESS);
        reply.result
    }

    pub(super) fn set(&mut self, property: Property, value: u64) {
        assert_eq!(self.status(PropertySetCmd::new(property, value).unwrap(), 0), Status::SUCCESS);
    }

    pub(super) fn csts(&mut self) -> Csts {
        Csts(u32::try_from(self.get(Property::CSTS)).unwrap())
    }

    pub(super) fn enable(&mut self, cc: u64) {
        self.set(Property::CC, cc & !1);
        self.set(Property::CC, cc);
        assert!(self.csts().rdy());
    }

    pub(super) fn identify(&mut self, cmd: IdentifyCmd) -> Result<Vec<u8>, Status> {
        let reply = self.reply(cmd, IDENTIFY_SIZE as u32);
        assert_eq!(reply.data.len(), if reply.status.is_success() { IDENTIFY_SIZE } else { 0 });
        if reply.status.is_success() { Ok(reply.data) } else { Err(reply.status.code()) }
    }

    pub(super) fn identify_as<T: FromBytes>(&mut self, cns: Cns, nsid: u32, csi: kvof_spec::Csi) -> Result<T, Status> {
        self.identify(IdentifyCmd::new(cns, nsid, csi)).map(|data| T::read_from_bytes(&data).unwrap())
    }

    pub(super) fn log(&mut self, cmd: GetLogPageCmd) -> Result<Vec<u8>, Status> {
        let reply = self.reply(cmd, u32::try_from(cmd.length()).unwrap_or(u32::MAX));
        if reply.status.is_success() { Ok(reply.data) } else { Err(reply.status.code()) }
    }

    pub(super) fn log_as<T: FromBytes>(&mut self, lid: LogId) -> T {
        let size = size_of::<T>() as u64;
        T::read_from_bytes(&self.log(GetLogPageCmd::new(lid, 0, 0, size).unwrap()).unwrap()).unwrap()
    }

    pub(super) fn get_feature(&mut self, fid: FeatureId) -> u32 {
        let reply = self.reply(GetFeaturesCmd::new(fid, FeatureSelect::CURRENT), 0);
        assert_eq!(reply.status, Status::SUCCESS, "{fid}");
        u32::try_from(reply.result).unwrap()
    }

    pub(super) fn set_feature(&mut self, fid: FeatureId, value: u32) -> Result<u32, Status> {
        let reply = self.reply(SetFeaturesCmd::new(fid, value), 0);
        if reply.status.is_success() { Ok(u32::try_from(reply.result).unwrap()) } else { Err(reply.status.code()) }
    }

    /// Completions of held commands.
    pub(super) fn completions(&mut self) -> Vec<(u16, Reply)> {
        std::iter::from_fn(|| self.admin.poll_completion(self.now)).collect()
    }
}
