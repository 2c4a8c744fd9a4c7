//! Discovery: asking a discovery controller which subsystems there are and where (section 3.1.2.3 and log page 70h).

use std::time::Duration;

use kvof_spec::log::{
    self, AddressFamily, DISCOVERY_RECORD_SIZE, DiscoveryFlags, DiscoveryHeader, LogId, SubsystemType,
    TransportRequirements, TransportType,
};
use kvof_spec::nqn::DISCOVERY_NQN;
use kvof_spec::{Csi, FromBytes};

use crate::{Address, ConnectOptions, Controller, Error, Result, Transport};

/// Entries that are read with one command.
const RECORDS_A_READ: u64 = 16;
/// Most entries of a log that is believed.
const RECORDS_MAX: u64 = 65_536;
/// Times that a log which changes while it is read is read again.
const READS_MAX: u32 = 10;

/// One entry of a discovery log: a subsystem at an address, or a referral to another discovery controller.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DiscoveryEntry {
    /// Transport.
    pub trtype: TransportType,
    /// What kind of address `traddr` is.
    pub adrfam: AddressFamily,
    /// A subsystem, a referral, or the discovery subsystem itself.
    pub subtype: SubsystemType,
    /// Port identifier.
    pub portid: u16,
    /// Controller identifier to connect to; FFFFh: dynamic.
    pub cntlid: u16,
    /// Entries of the admin queue at most.
    pub asqsz: u16,
    /// Requirements of the transport.
    pub treq: TransportRequirements,
    /// Flags of the entry.
    pub eflags: DiscoveryFlags,
    /// Transport service identifier: the port, for TCP and RDMA.
    pub trsvcid: String,
    /// Transport address.
    pub traddr: String,
    /// NQN of the subsystem.
    pub subnqn: String,
}

impl DiscoveryEntry {
    /// Where to connect to; `None` if the transport is neither TCP nor RDMA or the address makes no sense.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        let transport = match self.trtype {
            TransportType::TCP => Transport::Tcp,
            TransportType::RDMA => Transport::Rdma,
            _ => return None,
        };
        Some(Address::new(self.traddr.clone(), self.trsvcid.parse().ok()?).ok()?.with_transport(transport))
    }

    /// As [`Self::address`], for a host that `asked` discovery at this address: a target that listens on every address
    /// may name none in particular (0.0.0.0, ::), and then the one that was asked reaches it.
    #[must_use]
    pub fn address_from(&self, asked: &Address) -> Option<Address> {
        let named = self.address()?;
        if matches!(named.host(), "0.0.0.0" | "::") {
            return Some(Address::new(asked.host(), named.port()).ok()?.with_transport(named.transport()));
        }
        Some(named)
    }

    /// Whether this names another discovery controller.
    #[must_use]
    pub fn is_referral(&self) -> bool {
        self.subtype == SubsystemType::REFERRAL
    }

    /// Name of the transport.
    #[must_use]
    pub const fn transport(&self) -> &'static str {
        match self.trtype {
            TransportType::RDMA => "rdma",
            TransportType::FIBRE_CHANNEL => "fc",
            TransportType::TCP => "tcp",
            TransportType::LOOP => "loop",
            _ => "unknown",
        }
    }
}

/// Asks the discovery controller at `address` which subsystems this host may use.
///
/// # Errors
/// As [`Controller::connect`]; [`Error::InvalidAnswer`] for a log that is malformed or never stops changing.
pub async fn discover(address: &Address, options: &ConnectOptions) -> Result<Vec<DiscoveryEntry>> {
    let options = ConnectOptions { keep_alive: Duration::ZERO, ..options.clone() };
    let controller = DiscoveryController::connect(address, &options).await?;
    let entries = controller.entries().await;
    controller.disconnect().await;
    entries
}

/// A lasting connection to a discovery controller, which tells when its log changes.
#[derive(Clone, Debug)]
pub struct DiscoveryController {
    controller: Controller,
}

impl DiscoveryController {
    /// Connects; the connection is kept alive and made again as `options` say (a `keep_alive` of zero is none).
    ///
    /// # Errors
    /// As [`Controller::connect`].
    pub async fn connect(address: &Address, options: &ConnectOptions) -> Result<Self> {
        let options = ConnectOptions { io_queues: 0, ..options.clone() };
        Ok(Self { controller: Controller::connect(address, DISCOVERY_NQN, &options).await? })
    }

    /// On a connection to a discovery controller.
    pub(crate) const fn of(controller: Controller) -> Self {
        Self { controller }
    }

    /// The controller, for admin commands.
    #[must_use]
    pub const fn controller(&self) -> &Controller {
        &self.controller
    }

    /// The log as it is now.
    ///
    /// # Errors
    /// [`Error::InvalidAnswer`] for a log that is malformed or never stops changing.
    pub async fn entries(&self) -> Result<Vec<DiscoveryEntry>> {
        const NAME: &str = "Get Log Page (Discovery)";
        for _ in 0..READS_MAX {
            let (generation, count) = self.header().await?;
            if count > RECORDS_MAX {
                return Err(Error::invalid_answer(NAME, format!("it has {count} entries (NUMREC)")));
            }
            let mut entries = Vec::new();
            let mut next = 0;
            while next < count {
                let some = (count - next).min(RECORDS_A_READ);
                let len = some as u32 * DISCOVERY_RECORD_SIZE as u32;
                let log = self.controller.log_page(
                    LogId::DISCOVERY,
                    Csi::NVM,
                    (1 + next) * DISCOVERY_RECORD_SIZE as u64,
                    len,
                );
                let log = log.await?;
                let records = <[log::DiscoveryEntry]>::ref_from_bytes(&log)
                    .map_err(|_| Error::invalid_answer(NAME, "not whole entries"))?;
                entries.extend(records.iter().map(entry));
                next += some;
            }
            if self.header().await?.0 == generation {
                return Ok(entries);
            }
        }
        Err(Error::invalid_answer(NAME, format!("it has changed during each of {READS_MAX} reads")))
    }

    /// Waits until the log has changed, or the controller was reconnected, after `seen` changes, and gives the new
    /// count; start with 0. Then call [`Self::entries`], which also makes the controller report the next change.
    ///
    /// # Errors
    /// As [`Controller::info`].
    pub async fn changed(&self, seen: u64) -> Result<u64> {
        self.controller.discovery_changed(seen).await
    }

    /// See [`Controller::disconnect`].
    pub async fn disconnect(&self) {
        self.controller.disconnect().await;
    }

    /// GENCTR and NUMREC.
    async fn header(&self) -> Result<(u64, u64)> {
        let len = DISCOVERY_RECORD_SIZE as u32;
        let header = self.controller.log_page(LogId::DISCOVERY, Csi::NVM, 0, len).await?;
        DiscoveryHeader::ref_from_bytes(&header)
            .map(|header| (header.genctr.get(), header.numrec.get()))
            .map_err(|_| Error::invalid_answer("Get Log Page (Discovery)", "it has no header"))
    }
}

/// Reads one entry; texts that are none come out as well as they can.
fn entry(record: &log::DiscoveryEntry) -> DiscoveryEntry {
    let text = |field: &[u8]| {
        let text = field.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).trim().to_owned()
    };
    DiscoveryEntry {
        trtype: record.trtype(),
        adrfam: record.adrfam(),
        subtype: record.subtype(),
        treq: record.treq(),
        eflags: record.eflags(),
        portid: record.portid.get(),
        cntlid: record.cntlid.get(),
        asqsz: record.asqsz.get(),
        trsvcid: text(&record.trsvcid),
        subnqn: text(&record.subnqn),
        traddr: text(&record.traddr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_padded_text() {
        let address = "127.0.0.1:4420".parse().unwrap();
        let nqn = "nqn.2024-01.com.example:kv".parse().unwrap();
        let mut record = log::DiscoveryEntry::ip(TransportType::TCP, SubsystemType::NVM, &nqn, address, 1);
        let entry = entry(&record);
        assert_eq!(entry.address().unwrap().to_string(), "tcp://127.0.0.1:4420");
        assert_eq!((entry.subnqn.as_str(), entry.transport(), entry.is_referral()), (nqn.as_str(), "tcp", false));
        let asked = "rdma://host:1".parse().unwrap();
        assert_eq!(entry.address_from(&asked), entry.address());
        let mut of = |transport: TransportType, traddr: &[u8]| {
            record.trtype = transport.0;
            record.traddr = [b' '; 256];
            record.traddr[..traddr.len()].copy_from_slice(traddr);
            super::entry(&record).address_from(&asked).map(|a| a.to_string())
        };
        assert_eq!(of(TransportType::RDMA, b"10.0.0.1").as_deref(), Some("rdma://10.0.0.1:4420"));
        assert_eq!(of(TransportType::RDMA, b"0.0.0.0").as_deref(), Some("rdma://host:4420"));
        assert_eq!(of(TransportType::TCP, b"::").as_deref(), Some("tcp://host:4420"));
        assert_eq!(of(TransportType::FIBRE_CHANNEL, b"10.0.0.1"), None);
        record.traddr = [0xff; 256];
        assert_eq!(super::entry(&record).address(), None);
    }
}
