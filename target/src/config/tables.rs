//! The options: every table of a configuration file, as it is written.
//!
//! This list is the only one. The structures that the file is read into, the defaults, the reference in
//! `docs/configuration.md` and the sample all come from it.

use serde::Deserialize;
use toml::Spanned;

use super::value::{Class, Cores, Devices, Hosts, Kind, LogFormat, Mode, OptionValue, Size, Span, Storage, Transport};

/// One option, for people.
#[derive(Clone, Debug)]
pub(super) struct OptionDoc {
    pub(super) name: &'static str,
    /// What it means; lines of text.
    pub(super) text: &'static str,
    /// What is allowed.
    pub(super) values: &'static str,
    pub(super) default: DefaultDoc,
}

/// What holds when an option is not given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum DefaultDoc {
    /// This value, as TOML.
    Value(String),
    /// It has to be given.
    Required,
    /// Something that depends; in words, with a value that serves as an example.
    Words { words: &'static str, example: &'static str },
}

/// One table, for people.
#[derive(Clone, Debug)]
pub(super) struct TableDoc {
    /// Its header.
    pub(super) header: &'static str,
    pub(super) text: &'static str,
    pub(super) options: Vec<OptionDoc>,
}

/// Defines a table: its structure, a getter for each option that has a default, and its documentation.
macro_rules! table {
    (
        $(#[doc = $text:literal])*
        $header:literal => $name:ident {
            $($(#[doc = $option_text:literal])* $option:ident: $type:ty = $kind:ident($($default:tt)*)),* $(,)?
        }
        $(and { $($inner:ident: $inner_type:ty),* $(,)? })?
    ) => {
        $(#[doc = $text])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name {
            $($(#[doc = $option_text])* pub(super) $option: Option<Spanned<$type>>,)*
            $($(pub(super) $inner: $inner_type,)*)?
        }

        impl $name {
            $(table!(@getter $option $type, $kind($($default)*));)*

            fn doc() -> TableDoc {
                TableDoc {
                    header: $header,
                    text: concat!($($text, "\n"),*),
                    options: vec![$(OptionDoc {
                        name: stringify!($option),
                        text: concat!($($option_text, "\n"),*),
                        values: <$type as OptionValue>::VALUES,
                        default: table!(@default $type, $kind($($default)*)),
                    }),*],
                }
            }
        }
    };
    (@getter $option:ident $type:ty, default($default:expr)) => {
        /// The value given or the default, which has the empty range 0..0.
        pub(super) fn $option(&self) -> Spanned<$type> {
            self.$option.clone().unwrap_or_else(|| Spanned::new(0..0, $default))
        }
    };
    (@getter $option:ident $type:ty, $kind:ident($($default:tt)*)) => {};
    (@default $type:ty, default($default:expr)) => {{
        let value: $type = $default;
        DefaultDoc::Value(value.to_toml())
    }};
    (@default $type:ty, required()) => { DefaultDoc::Required };
    (@default $type:ty, words($words:literal, $example:literal)) => {
        DefaultDoc::Words { words: $words, example: $example }
    };
}

table! {
    /// Threads and memory. Every core that is used runs one thread, which serves the connections that it was given.
    "[reactor]" => ReactorTable {
        /// Cores to run on. With a list, each thread stays on its processor.
        cores: Cores = default(Cores::All),
        /// How long an idle thread keeps looking for work before it sleeps. Longer saves some microseconds of latency
        /// and costs processor time; 0s sleeps at once. At most 1s.
        busy_poll: Span = default(micros(50)),
        /// Most memory for data on its way, on all cores together. When it is used up, hosts wait; it never grows. The
        /// contents of memory namespaces come on top.
        memory: Size = default(Size(512 << 20)),
    }
}

table! {
    /// What hosts may ask for. These bound the resources that hosts can take.
    "[limits]" => LimitsTable {
        /// Most connections at a time, on all ports together. More are closed as they come.
        connections: u32 = default(2048),
        /// Most controllers (hosts' associations, discovery included) at a time.
        controllers: u32 = default(1024),
        /// Most I/O queues of one controller; each is a connection. 1 to 65534.
        io_queues: u32 = default(128),
        /// Most entries of an I/O queue. 2 to 4096. Admin queues have 32 to 4096 whatever this says. `rdma.queue_size` is
        /// the limit over RDMA, if that is less.
        queue_size: u32 = default(1024),
        /// Most data of one command (MDTS): a power of two from 8KiB to 256MiB. A value of a KV namespace is transferred
        /// by one command, so `max_value_size` cannot be more.
        transfer: Size = default(Size(2 << 20)),
        /// How long a controller may stay disabled or shut down, and a discovery controller without keep alive idle,
        /// before its connections are closed. 1s to 1h; the specification asks for 2min at least.
        association_timeout: Span = default(seconds(120)),
    }
}

table! {
    /// The NVMe/TCP transport.
    "[tcp]" => TcpTable {
        /// Most data that a command capsule of an I/O queue may carry (IOCCSZ). 0, or a multiple of 16 bytes to 1MiB.
        in_capsule: Size = default(Size(8 << 10)),
        /// Most data that a host may put into one H2CData PDU (MAXH2CDATA). A multiple of 4 bytes, 4KiB to 64MiB.
        max_h2c_data: Size = default(Size(1 << 20)),
        /// Most R2Ts that are outstanding for one command, where the host allows as many. 1 to 4.
        max_r2t: u32 = default(4),
        /// Whether to use header digests with hosts that ask for them.
        header_digest: bool = default(true),
        /// Whether to use data digests with hosts that ask for them.
        data_digest: bool = default(true),
        /// Time for a new connection to complete its ICReq and Connect. 100ms to 10min.
        handshake_timeout: Span = default(seconds(10)),
        /// How long a host may take for one PDU, above what its length needs at 32KiB a second, and for taking anything
        /// of what waits to be sent to it. 100ms to 10min.
        pdu_timeout: Span = default(seconds(30)),
    }
}

table! {
    /// The NVMe/RDMA transport. It needs rdma-core and a device, which only a target with a port of
    /// `transport = "rdma"` looks for; `kvof doctor` says what this machine has.
    "[rdma]" => RdmaTable {
        /// Most data that a command capsule of an I/O queue may carry (IOCCSZ). 0, or a multiple of 16 bytes to 64KiB.
        /// Every entry of every queue has a receive buffer, and takes this size and 128 bytes.
        in_capsule: Size = default(Size(4 << 10)),
        /// Most entries of a queue, where `limits.queue_size` is not less. 2 to 4096. Admin queues have 32 to 4096
        /// whatever this says.
        queue_size: u32 = default(128),
        /// Most memory for the receive buffers of one core's connections. When it is used up, more connections are refused
        /// (No Resources). 1MiB to 64GiB, and enough for one I/O queue.
        receive_memory: Size = default(Size(64 << 20)),
        /// Time for a new connection to complete its Connect. 100ms to 10min.
        handshake_timeout: Span = default(seconds(10)),
    }
}

table! {
    /// The log, on standard error.
    "[log]" => LogTable {
        /// What is logged: error, warn, info, debug or trace, or directives such as `info,kvof_target::control=debug`.
        level: String = default("info".to_owned()),
        /// Form of the lines.
        format: LogFormat = default(LogFormat::Human),
    }
}

table! {
    /// The process.
    "[daemon]" => DaemonTable {
        /// On SIGTERM: time for commands that run to complete before connections are closed. At most 10min.
        drain_timeout: Span = default(seconds(10)),
    }
}

table! {
    /// A pool of devices, in which KV namespaces lie: block devices, or files. `kvof format` makes one; its devices are
    /// recognised wherever they appear, and may be given in any order. Devices that are missing are looked for again on
    /// SIGHUP, and so are those that the list has then and had not before; one that it has no more is given up.
    "[[pool]]" => PoolTable {
        /// What namespaces call the pool (`storage = "pool:NAME"`), 1 to 64 bytes.
        name: String = required(),
        /// Where its devices are; a relative path starts at the folder of the configuration file.
        devices: Devices = required(),
        /// Most memory for the index, of which a key takes about 30 bytes. A pool that has more keys is not opened, and one
        /// that reaches it answers Capacity Exceeded.
        index_memory: Size = words("1GiB, or an eighth of the machine's memory if that is less", "\"1GiB\""),
        /// Memory for values that were stored lately or are read often; 0 for none.
        tier: Size = words("256MiB, or a sixteenth of the machine's memory if that is less", "\"256MiB\""),
        /// Most memory for what is on its way to the devices, and for background work, shared by the shards. One whose longest
        /// value needs more takes more. At least 1MiB.
        scratch: Size = default(Size(64 << 20)),
        /// Most memory for values that are read ahead, when a host asks whether a key exists; 0 for none. It is part of
        /// `reactor.memory`.
        read_ahead: Size = default(Size(32 << 20)),
        /// Bytes a second that filling a device again may write; 0 for as fast as it goes.
        rebuild_rate: Size = default(Size(256 << 20)),
        /// Bytes a second that are read to find what has rotted, and repair it; 0 for none.
        scrub_rate: Size = default(Size(32 << 20)),
    }
}

table! {
    /// An address to listen on; every port serves every subsystem and discovery. At least one.
    "[[port]]" => PortTable {
        /// Address and port: `ADDRESS:PORT`, `[IPV6]:PORT` or `NAME:PORT`; the port is 4420 when left out. A name is
        /// resolved at start, and each of its addresses is listened on. `tcp://` or `rdma://` before it names the
        /// transport.
        address: String = required(),
        /// Transport of its connections. An address can be listened on by both.
        transport: Transport = words("the one that the address begins with, or \"tcp\"", "\"tcp\""),
        /// Address (without port) that the discovery log tells hosts to use for this port, where it differs from the
        /// address that they reached discovery by.
        advertise: String = words("the address that the host reached", "\"192.0.2.7\""),
    }
}

table! {
    /// An NVM subsystem: a set of namespaces that hosts connect to by its NQN.
    "[[subsystem]]" => SubsystemTable {
        /// NVMe Qualified Name, at most 223 bytes.
        nqn: String = required(),
        /// Hosts that may connect: a list of host NQNs, or "any" for every host that can reach a port.
        allowed_hosts: Hosts = required(),
        /// Serial number, 1 to 20 printable ASCII characters.
        serial: String = words("made from the NQN, always the same", "\"KV0001\""),
        /// Model number, 1 to 40 printable ASCII characters.
        model: String = default("kvof".to_owned()),
    }
    and { namespace: Vec<Spanned<NamespaceTable>> }
}

table! {
    /// A namespace of the subsystem above.
    "[[subsystem.namespace]]" => NamespaceTable {
        /// Namespace identifier, 1 to 4294967294, unique in the subsystem.
        nsid: u32 = required(),
        /// Command set: Key Value or NVM (blocks).
        kind: Kind = required(),
        /// Where the data lies. In memory it is gone when the target stops. A path names a file or block device that the
        /// namespace has for itself; a file is made when it does not exist, and a relative path starts at the folder of
        /// the configuration file. For a KV namespace it is a pool of one device without parity, which is formatted when
        /// it is empty; a file gets an eighth more than `size` and some room to work in.
        storage: Storage = words("the pool of a KV namespace, if there is exactly one; required otherwise", "\"memory\""),
        /// KV in a pool: what happens when there is no room. A store answers Capacity Exceeded; a cache drops what was stored
        /// first and not read since.
        mode: Mode = words("\"store\"; only KV in a pool has one", "\"store\""),
        /// KV in a pool: what an acknowledged Store survives. `media`: a loss of power. `device`: the end of the process; the
        /// devices have it, perhaps in volatile caches, until Flush (a volatile write cache is advertised then).
        durability: Class = words("\"media\"; only KV in a pool has one", "\"media\""),
        /// KV in a pool: bytes that no other namespace of the pool can take, at most `size`.
        reservation: Size = words("0; only KV in a pool has one", "\"0B\""),
        /// Capacity. KV: bytes of keys and values. NVM: a multiple of `block_size`.
        size: Size = words("required; an NVM file or device that exists gives its own", "\"1GiB\""),
        /// NVM: bytes in a block, 512 or 4096.
        block_size: Size = words("4KiB for NVM; KV has none", "\"4KiB\""),
        /// KV: most bytes of a value (KVVML), from 1 to `limits.transfer`.
        max_value_size: Size = words("2MiB, or limits.transfer if that is less; NVM has none", "\"2MiB\""),
        /// KV: most keys (MNKS); 0 sets no limit.
        max_keys: u32 = words("0; NVM has none", "0"),
        /// UUID that hosts tell the namespace by.
        uuid: String = words("made from the NQN and the NSID, always the same", "\"00112233-4455-4677-8899-aabbccddeeff\""),
        /// NGUID, 32 hexadecimal digits.
        nguid: String = words("made from the NQN and the NSID, always the same", "\"00112233445566778899aabbccddeeff\""),
    }
}

table! {
    /// A discovery service elsewhere, to which this target's discovery log refers hosts.
    "[[referral]]" => ReferralTable {
        /// Its address, written as that of a port, with `rdma://` before it if RDMA reaches it; the port is 8009 when left
        /// out.
        address: String = required(),
        /// Port identifier of the entry in the discovery log, 0 to 65535.
        portid: u32 = default(0),
    }
}

/// A whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) reactor: ReactorTable,
    pub(super) limits: LimitsTable,
    pub(super) tcp: TcpTable,
    pub(super) rdma: RdmaTable,
    pub(super) log: LogTable,
    pub(super) daemon: DaemonTable,
    pub(super) pool: Vec<Spanned<PoolTable>>,
    pub(super) port: Vec<Spanned<PortTable>>,
    pub(super) subsystem: Vec<Spanned<SubsystemTable>>,
    pub(super) referral: Vec<Spanned<ReferralTable>>,
}

impl File {
    /// Every table in the order in which a file has them.
    pub(super) fn docs() -> Vec<TableDoc> {
        vec![
            ReactorTable::doc(),
            LimitsTable::doc(),
            TcpTable::doc(),
            RdmaTable::doc(),
            LogTable::doc(),
            DaemonTable::doc(),
            PoolTable::doc(),
            PortTable::doc(),
            SubsystemTable::doc(),
            NamespaceTable::doc(),
            ReferralTable::doc(),
        ]
    }
}

const fn micros(micros: u64) -> Span {
    Span(std::time::Duration::from_micros(micros))
}

const fn seconds(seconds: u64) -> Span {
    Span(std::time::Duration::from_secs(seconds))
}
