//! Whole configurations: what is accepted, what is refused and with which words, and that the documents are true.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use super::{machine::Machine, *};
use crate::model::{Durability, KvStorageDef, NamespaceKindDef, NamespaceMode, PoolUse, PortDef, StorageDef};

const START: &str = r#"
[[port]]
address = "127.0.0.1:4420"

[[subsystem]]
nqn = "nqn.2024-01.com.example:kv"
allowed_hosts = "any"
"#;

const KV: &str = r#"
[[subsystem.namespace]]
nsid = 1
kind = "kv"
storage = "memory"
size = "1GiB"
"#;

fn parse_in(text: &str, folder: &Path) -> Result<Config, Vec<Problem>> {
    let machine = Machine { cpus: vec![0, 1, 2, 5], memory: Some(8 << 30) };
    let lookup = |name: &str, port| match name {
        "localhost" => {
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))])
        }
        _ => Err(io::Error::other("no such name")),
    };
    let source = Source { file: "test.toml", text };
    let file: File = toml::from_str(text).map_err(|error| vec![source.reader_problem(&error)])?;
    check::check(&file, source, check::World { machine: &machine, folder, resolve: &lookup })
}

fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    parse_in(text, Path::new("/nonexistent"))
}

/// The one problem of `text`, as users see it.
#[track_caller]
fn problem(text: &str) -> String {
    let problems = parse(text).expect_err("must be refused");
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1, "{texts:#?}");
    texts.into_iter().next().unwrap()
}

#[test]
fn a_small_configuration_gets_defaults() {
    let config = parse(&format!("{START}{KV}")).unwrap();
    let settings = &config.settings;
    assert_eq!(settings.cpus, [0, 1, 2, 5]);
    assert_eq!(settings.busy_poll, Duration::from_micros(50));
    assert_eq!(settings.limits.transfer, 2 << 20);
    assert_eq!(settings.tcp.in_capsule, 8192);
    assert_eq!((settings.rdma.in_capsule, settings.rdma.queue_size), (4096, 128));
    let subsystem = &config.target.subsystems[0];
    assert_eq!(subsystem.allowed_hosts, None);
    assert_eq!(subsystem.serial.len(), 20);
    assert_eq!(subsystem.model, "kvof");
    let NamespaceKindDef::Kv { limits, size, storage } = &subsystem.namespaces[0].kind else { panic!("not KV") };
    assert_eq!((limits.kvkml, limits.kvvml, limits.mnks), (16, 2 << 20, 0));
    assert_eq!(*size, 1 << 30);
    assert_eq!(*storage, KvStorageDef::Memory);
}

#[test]
fn identifiers_are_stable_and_can_be_given() {
    let derived = |text: &str| {
        let config = parse(text).unwrap();
        let namespace = &config.target.subsystems[0].namespaces[0];
        (namespace.uuid, namespace.nguid)
    };
    assert_eq!(derived(&format!("{START}{KV}")), derived(&format!("{START}{KV}")));
    let given = format!(
        "{START}{KV}uuid = \"00112233-4455-4677-8899-aabbccddeeff\"\nnguid = \"00112233445566778899AABBCCDDEEFF\""
    );
    let (uuid, nguid) = derived(&given);
    assert_eq!(uuid[..4], [0, 0x11, 0x22, 0x33]);
    assert_eq!(uuid[6], 0x46);
    assert_eq!(nguid[6], 0x66);
}

#[test]
fn names_are_resolved_to_all_their_addresses() {
    let config = parse(&START.replace("127.0.0.1:4420", "localhost:4421")).unwrap();
    let listens: Vec<String> = config.target.ports.iter().map(|port| port.listen.to_string()).collect();
    assert_eq!(listens, ["127.0.0.1:4421", "[::1]:4421"]);
    assert_ne!(config.target.ports[0].portid, config.target.ports[1].portid);
}

#[test]
fn ports_have_a_transport_and_both_may_share_an_address() {
    let port = |address: &str, rest: &str| format!("[[port]]\naddress = \"{address}\"\n{rest}");
    let text = format!(
        "{}{}{}{}{START}",
        port("rdma://127.0.0.1", ""),
        port("[::1]:4421", "transport = \"rdma\"\n"),
        port("tcp://[::1]:4421", ""),
        port("rdma://192.0.2.1:1", "transport = \"rdma\"\n"),
    );
    let config = parse(&text).unwrap();
    let urls: Vec<String> = config.target.ports.iter().map(PortDef::url).collect();
    let expected = [
        "rdma://127.0.0.1:4420",
        "rdma://[::1]:4421",
        "tcp://[::1]:4421",
        "rdma://192.0.2.1:1",
        "tcp://127.0.0.1:4420",
    ];
    assert_eq!(urls, expected);
    assert!(config.summary().starts_with(&format!("listens on {}", expected.join(", "))), "{}", config.summary());
}

#[test]
fn a_problem_shows_the_place_the_key_the_value_and_what_is_allowed() {
    let text = problem("[reactor]\nmemory = \"12Q\" # much\n");
    let expected = concat!(
        "test.toml:2:10: reactor.memory = \"12Q\": invalid value: string \"12Q\", expected a size: bytes as a number, ",
        "or text with B, KiB, MiB, GiB or TiB, such as \"64MiB\"\n",
        "   |\n",
        " 2 | memory = \"12Q\" # much\n",
        "   |          ^^^^^",
    );
    assert_eq!(text, expected);
}

#[test]
fn every_kind_of_mistake_is_named() {
    let base = format!("{START}{KV}");
    let edit = |from: &str, to: &str| {
        assert!(base.contains(from), "{from}");
        base.replacen(from, to, 1)
    };
    let add = |text: &str| format!("{base}{text}\n");
    let top = |text: &str| format!("{text}\n{base}");
    for (text, wanted) in [
        // Forms.
        (
            top("[limits]\nconections = 3"),
            vec!["test.toml:2:1: limits.conections: unknown field `conections`", "`connections`"],
        ),
        (top("[limit]\nx = 3"), vec!["limit: unknown field `limit`", "`limits`"]),
        (top("[limits]\nconnections = \"many\""), vec!["test.toml:2:15: limits.connections = \"many\"", "u32"]),
        (top("[limits]\nconnections = -1"), vec!["limits.connections = -1"]),
        (top("[reactor]\nbusy_poll = 5"), vec!["reactor.busy_poll = 5", "such as \"500ms\""]),
        (top("[reactor]\nbusy_poll = "), vec!["test.toml:2:"]),
        (top("[log]\nformat = \"xml\""), vec!["log.format = \"xml\"", "\"human\" or \"json\""]),
        (top("[log]\nlevel = \"a=b=c\""), vec!["test.toml:2:9: log.level = \"a=b=c\"", "error, warn, info"]),
        (edit("kind = \"kv\"", "kind = \"kw\""), vec!["subsystem[0].namespace[0].kind = \"kw\"", "\"kv\" or \"nvm\""]),
        (edit("\"any\"", "\"all\""), vec!["subsystem[0].allowed_hosts = \"all\"", "\"any\", or a list of host NQNs"]),
        // Bounds.
        (top("[reactor]\ncores = 5"), vec!["reactor.cores = 5", "may use 4 processors (0-2,5)"]),
        (top("[reactor]\ncores = [0, 3]"), vec!["reactor.cores = [0, 3]", "no processor 3"]),
        (top("[reactor]\ncores = [1, 1]"), vec!["processor 1 is named twice"]),
        (top("[reactor]\ncores = 0"), vec!["reactor.cores = 0", "from 1"]),
        (top("[reactor]\nbusy_poll = \"2s\""), vec!["reactor.busy_poll = \"2s\"", "from 0s to 1s"]),
        (top("[reactor]\nmemory = \"1MiB\""), vec!["at least 16MiB", "4 cores"]),
        (top("[reactor]\nmemory = \"9GiB\""), vec!["10GiB in all, but the machine has 8GiB"]),
        (
            top("[limits]\ntransfer = \"512MiB\"\n[reactor]\nmemory = \"4GiB\""),
            vec!["limits.transfer = \"512MiB\"", "from 8KiB to 256MiB"],
        ),
        (top("[limits]\ntransfer = \"3MiB\""), vec!["limits.transfer = \"3MiB\"", "power of two; 4MiB"]),
        (top("[limits]\nqueue_size = 1"), vec!["limits.queue_size = 1", "from 2 to 4096"]),
        (top("[tcp]\nin_capsule = 100"), vec!["tcp.in_capsule = 100", "multiple of 16"]),
        (top("[tcp]\npdu_timeout = \"1ms\""), vec!["tcp.pdu_timeout = \"1ms\"", "from 100ms to 600s"]),
        // Ports.
        (
            top("[[port]]\naddress = \"127.0.0.1\""),
            vec!["port[1].address = \"127.0.0.1:4420\"", "listens on tcp://127.0.0.1:4420 already"],
        ),
        (
            top("[[port]]\naddress = \"rdma://127.0.0.1\"\n[[port]]\naddress = \"127.0.0.1\"\ntransport = \"rdma\""),
            vec!["port[1].address = \"127.0.0.1\"", "listens on rdma://127.0.0.1:4420 already"],
        ),
        (
            top("[[port]]\naddress = \"tcp://127.0.0.1:1\"\ntransport = \"rdma\""),
            vec!["port[0].transport = \"rdma\"", "begins with tcp://"],
        ),
        (
            top("[[port]]\naddress = \"127.0.0.1:1\"\ntransport = \"roce\""),
            vec!["port[0].transport = \"roce\"", "\"tcp\" or \"rdma\""],
        ),
        (top("[[port]]\naddress = \"http://127.0.0.1:1\""), vec!["port[0].address", "tcp:// or rdma:// before it"]),
        (top("[rdma]\nin_capsule = 100"), vec!["rdma.in_capsule = 100", "64KiB", "multiple of 16"]),
        (top("[rdma]\nqueue_size = 5000"), vec!["rdma.queue_size = 5000", "from 2 to 4096"]),
        (top("[rdma]\nreceive_memory = \"1KiB\""), vec!["rdma.receive_memory = \"1KiB\"", "from 1MiB to 64GiB"]),
        (
            top("[rdma]\nreceive_memory = \"1MiB\"\nqueue_size = 512"),
            vec!["rdma.receive_memory = \"1MiB\"", "one I/O queue", "2112KiB"],
        ),
        (
            top("[rdma]\nreceive_memory = \"2GiB\"\n[[port]]\naddress = \"rdma://127.0.0.1\""),
            vec!["reactor.memory = \"512MiB\"", "receive buffers of RDMA (8GiB)", "the machine has 8GiB"],
        ),
        (top("[[port]]\naddress = \"no.example\""), vec!["port[0].address", "no.example cannot be resolved"]),
        (top("[[port]]"), vec!["test.toml:1:", "port[0].address: missing"]),
        (edit(":4420\"", ":4420\"\nadvertise = \"a b\""), vec!["port[0].advertise = \"a b\"", "without a port"]),
        (KV.replace("[[subsystem.namespace]]", "[log]").lines().take(2).collect(), vec!["port: missing"]),
        (
            top("[[referral]]\naddress = \"1.2.3.4\"\nportid = 65536"),
            vec!["referral[0].portid = 65536", "from 0 to 65535"],
        ),
        // Names.
        (edit("nqn.2024", "nqm.2024"), vec!["subsystem[0].nqn = \"nqm.2024-01.com.example:kv\"", "must begin with"]),
        (
            edit("nqn.2024-01.com.example:kv", "nqn.2014-08.org.nvmexpress.discovery"),
            vec!["belongs to the discovery service"],
        ),
        (
            add(START.split_once("[[sub").map(|(_, rest)| format!("[[sub{rest}")).unwrap().as_str()),
            vec!["subsystem[1].nqn", "subsystem[0] has this name already"],
        ),
        (
            edit("allowed_hosts = \"any\"", ""),
            vec!["test.toml:5:1: subsystem[0].allowed_hosts: missing", "\"any\", or a list"],
        ),
        (edit("\"any\"", "[\"nqn.a\", \"b\"]"), vec!["subsystem[0].allowed_hosts[1] = \"b\""]),
        (edit("\"any\"", "[\"nqn.a\", \"nqn.a\"]"), vec!["in the list already"]),
        (
            edit("allowed", "serial = \"123456789012345678901\"\nallowed"),
            vec!["subsystem[0].serial", "1 to 20 printable ASCII"],
        ),
        (edit("allowed", "model = \"\"\nallowed"), vec!["subsystem[0].model", "1 to 40 printable ASCII"]),
        // Namespaces.
        (edit("nsid = 1", "nsid = 0"), vec!["subsystem[0].namespace[0].nsid = 0", "from 1 to 4294967294"]),
        (edit("nsid = 1", ""), vec!["subsystem[0].namespace[0].nsid: missing"]),
        (add(KV), vec!["subsystem[0].namespace[1].nsid = 1", "namespace[0] of this subsystem has this NSID"]),
        (edit("size = \"1GiB\"", ""), vec!["namespace[0].size: missing"]),
        (edit("1GiB", "1MiB"), vec!["namespace[0].size = \"1MiB\"", "at least one value"]),
        (edit("1GiB", "100GiB"), vec!["the machine has 8GiB"]),
        (add("max_value_size = \"4MiB\""), vec!["max_value_size = \"4MiB\"", "limits.transfer (2MiB)"]),
        (add("block_size = 512"), vec!["block_size = 512", "only a namespace of kind = \"nvm\""]),
        (edit("\"kv\"", "\"nvm\"\nmax_keys = 1"), vec!["max_keys = 1", "only a namespace of kind = \"kv\""]),
        (edit("\"kv\"", "\"nvm\"\nblock_size = 1000"), vec!["block_size = 1000", "512 or 4096"]),
        (
            edit("\"kv\"", "\"nvm\"").replace("1GiB", "1000B"),
            vec!["size = \"1000B\"", "multiple of block_size (4096 bytes)"],
        ),
        (edit("\"memory\"", "\"/dev/null\""), vec!["storage = \"/dev/null\"", "neither a file nor a block device"]),
        (edit("\"memory\"", "\"/no/such/folder/f\""), vec!["no folder /no/such/folder"]),
        (edit("\"memory\"", "\"\""), vec!["storage = \"\"", "\"memory\", \"pool:NAME\", or the path"]),
        (edit("\"memory\"", "\"pool:x\""), vec!["storage = \"pool:x\"", "no such pool", "the file has no [[pool]]"]),
        (edit("storage = \"memory\"", ""), vec!["namespace[0].storage: missing", "\"pool:NAME\"", "no [[pool]]"]),
        (edit("\"kv\"", "\"nvm\"").replace("storage = \"memory\"", ""), vec!["namespace[0].storage: missing"]),
        (add("mode = \"cache\""), vec!["mode = \"cache\"", "only a namespace of storage in a pool"]),
        (add("durability = \"disk\""), vec!["durability = \"disk\"", "\"media\" or \"device\""]),
        // Pools.
        (top("[[pool]]\nname = \"p\""), vec!["pool[0].devices: missing", "list of paths"]),
        (top("[[pool]]\ndevices = [\"/x\"]"), vec!["pool[0].name: missing"]),
        (top("[[pool]]\nname = \"p\"\ndevices = []"), vec!["pool[0].devices = []", "list of paths"]),
        (top("[[pool]]\nname = \"p\"\ndevices = \"/x\""), vec!["pool[0].devices = \"/x\"", "list of paths"]),
        (top("[[pool]]\nname = \"p\"\ndevices = [\"\"]"), vec!["pool[0].devices[0] = \"\"", "no path"]),
        (
            top("[[pool]]\nname = \"p\"\ndevices = [\"/dev/null\"]"),
            vec!["pool[0].devices[0] = \"/dev/null\"", "neither a file nor a block device"],
        ),
        (
            top("[[pool]]\nname = \"p\"\ndevices = [\"/x\"]\n[[pool]]\nname = \"p\"\ndevices = [\"/y\"]"),
            vec!["pool[1].name = \"p\"", "pool[0] has this name already"],
        ),
        (
            top("[[pool]]\nname = \"p\"\ndevices = [\"/x\"]\n[[pool]]\nname = \"q\"\ndevices = [\"/y\", \"/x\"]"),
            vec!["pool[1].devices[1] = \"/x\"", "pool[0] uses this device already"],
        ),
        (top("[[pool]]\nname = \"file:x\"\ndevices = [\"/x\"]"), vec!["pool[0].name = \"file:x\"", "not begin with"]),
        (
            top("[[pool]]\nname = \"p\"\ndevices = [\"/x\"]\nscratch = \"4KiB\""),
            vec!["pool[0].scratch = \"4KiB\"", "at least \"1MiB\""],
        ),
        (
            top("[[pool]]\nname = \"p\"\ndevices = [\"/x\"]\ntier = \"7GiB\""),
            vec!["pools' index, tier and scratch", "the machine has 8GiB"],
        ),
        (
            top("[[pool]]\nname = \"p\"\ndevices = [\"/x\"]")
                .replace("\"memory\"", "\"pool:p\"\nreservation = \"2GiB\""),
            vec!["reservation = \"2GiB\"", "cannot be more than size"],
        ),
        (
            top("[[pool]]\nname = \"p\"\ndevices = [\"/x\"]")
                .replace("\"kv\"", "\"nvm\"")
                .replace("\"memory\"", "\"pool:p\""),
            vec!["storage = \"pool:p\"", "only KV namespaces lie in pools"],
        ),
        (add("uuid = \"1\""), vec!["uuid = \"1\"", "must be a UUID"]),
        (add("nguid = \"1\""), vec!["nguid = \"1\"", "32 hexadecimal digits"]),
        (add("nguid = \"+0112233445566778899aabbccddeeff\""), vec!["32 hexadecimal digits"]),
    ] {
        let message = problem(&text);
        for part in wanted {
            assert!(message.contains(part), "{part:?} is not in:\n{message}");
        }
    }
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_file() {
    let text = START.replace("127.0.0.1:4420", "nowhere").replace("\"any\"", "[\"x\"]");
    let problems = parse(&format!("[limits]\nio_queues = 0\n{text}")).unwrap_err();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["limits.io_queues", "port[0].address", "subsystem[0].allowed_hosts[0]"]);
    let lines: Vec<usize> = problems.iter().filter_map(|problem| problem.place.as_ref().map(|p| p.line)).collect();
    assert_eq!(lines, [2, 5, 9]);
}

#[test]
fn files_are_found_from_the_folder_of_the_configuration_and_used_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("blocks"), vec![0; 10_000]).unwrap();
    std::os::unix::fs::symlink("blocks", folder.path().join("link")).unwrap();
    let nvm = |nsid: u32, path: &str| {
        format!("[[subsystem.namespace]]\nnsid = {nsid}\nkind = \"nvm\"\nstorage = \"{path}\"\n")
    };
    let config = parse_in(&format!("{START}{}", nvm(1, "blocks")), folder.path()).unwrap();
    let NamespaceKindDef::Nvm { size, storage, .. } = &config.target.subsystems[0].namespaces[0].kind else {
        panic!("not NVM")
    };
    // Two blocks of 4096 bytes fit.
    assert_eq!(*size, 8192);
    assert_eq!(*storage, StorageDef::File { path: folder.path().join("blocks") });

    for (first, second) in [("blocks", "link"), ("blocks", "./blocks"), ("new", "./new")] {
        let size = if first == "new" { "size = 8192\n" } else { "" };
        let text = format!("{START}{}{size}{}{size}", nvm(1, first), nvm(2, second));
        let problems = parse_in(&text, folder.path()).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains("subsystem[0].namespace[0] uses this file already"), "{problems:?}");
    }
    let problems = parse_in(&format!("{START}{}", nvm(1, "absent")), folder.path()).unwrap_err();
    assert!(problems[0].message.contains("give the size"), "{problems:?}");
}

#[test]
fn kv_namespaces_lie_in_the_only_pool_unless_they_say_otherwise() {
    let pool = |name: &str| format!("[[pool]]\nname = \"{name}\"\ndevices = [\"/{name}1\", \"{name}2\"]\n");
    let kv = KV.replace("storage = \"memory\"", "");
    let config = parse(&format!("{}{START}{kv}", pool("flash"))).unwrap();
    let [flash] = config.target.pools.as_slice() else { panic!("{:?}", config.target.pools) };
    assert_eq!(flash.devices, [Path::new("/flash1"), Path::new("/nonexistent/flash2")]);
    // A machine of 8 GiB.
    assert_eq!((flash.limits.index_memory, flash.limits.tier), (1 << 30, 256 << 20));
    let storage = |config: &Config| {
        let NamespaceKindDef::Kv { storage, .. } = &config.target.subsystems[0].namespaces[0].kind else { panic!() };
        storage.clone()
    };
    let expected =
        PoolUse { pool: "flash".into(), mode: NamespaceMode::Store, durability: Durability::Media, reservation: 0 };
    assert_eq!(storage(&config), KvStorageDef::Pool(expected.clone()));
    let given = format!("{kv}mode = \"cache\"\ndurability = \"device\"\nreservation = \"4KiB\"\nstorage = \"pool:b\"");
    let config = parse(&format!("{}{}{START}{given}", pool("a"), pool("b"))).unwrap();
    let expected =
        PoolUse { pool: "b".into(), mode: NamespaceMode::Cache, durability: Durability::Device, reservation: 4096 };
    assert_eq!(storage(&config), KvStorageDef::Pool(expected));
    let text = problem(&format!("{}{}{START}{kv}", pool("a"), pool("b")));
    assert!(text.contains("storage: missing") && text.contains("there are \"a\", \"b\""), "{text}");
}

#[test]
fn a_file_of_a_kv_namespace_is_a_pool_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv");
    for given in ["kv", "file:kv", path.to_str().unwrap()] {
        let config = parse_in(&format!("{START}{}", KV.replace("memory", given)), folder.path()).unwrap();
        let [pool] = config.target.pools.as_slice() else { panic!("{:?}", config.target.pools) };
        assert_eq!((pool.name.clone(), pool.devices.clone()), (format!("file:{}", path.display()), vec![path.clone()]));
        let file = pool.create.unwrap();
        // Values of up to 2 MiB fit into a group, and there is more room than for what is stored.
        assert_eq!((file.segment, file.bytes), (4 << 20, (1 << 30) + (1 << 27) + 12 * (4 << 20)));
        let NamespaceKindDef::Kv { storage, .. } = &config.target.subsystems[0].namespaces[0].kind else { panic!() };
        assert!(matches!(storage, KvStorageDef::Pool(used) if used.pool == pool.name));
        let summary = config.summary();
        assert!(summary.contains(&format!("namespace 1: KV, 1GiB in {}, values to 2MiB", path.display())), "{summary}");
    }
}

#[test]
fn equal_identifiers_are_refused() {
    let uuid = "uuid = \"00112233-4455-4677-8899-aabbccddeeff\"\n";
    let second = KV.replace("nsid = 1", "nsid = 2");
    let text = problem(&format!("{START}{KV}{uuid}{second}{uuid}"));
    assert!(text.contains("subsystem[0].namespace[0].uuid is the same"), "{text}");
}

#[test]
fn quick_flags_make_a_configuration() {
    let config = Config::quick(&Quick::default(), &Overrides::default()).unwrap();
    assert_eq!(config.target.ports[0].listen.to_string(), "127.0.0.1:4420");
    assert!(config.target.subsystems[0].namespaces[0].def_is_kv());

    let open = Quick { listen: vec!["0.0.0.0:0".into()], ..Quick::default() };
    let error = Config::quick(&open, &Overrides::default()).unwrap_err().to_string();
    assert!(error.contains("--listen = 0.0.0.0:0") && error.contains("--allow-any-host"), "{error}");
    let open = Quick { allow_any_host: true, ..open };
    Config::quick(&open, &Overrides::default()).unwrap();

    let wrong = Quick { nqn: Some("kv".into()), ..Quick::default() };
    let error = Config::quick(&wrong, &Overrides::default()).unwrap_err().to_string();
    assert!(error.starts_with("subsystem[0].nqn = \"kv\": "), "{error}");
}

impl crate::model::NamespaceDef {
    fn def_is_kv(&self) -> bool {
        matches!(self.kind, NamespaceKindDef::Kv { .. })
    }
}

#[test]
fn the_command_line_overrides_the_file() {
    let overrides = Overrides {
        listen: vec!["[::1]:0".into()],
        cores: Some(Cores::Count(1)),
        log_level: Some("debug".into()),
        log_format: Some(LogFormat::Json),
    };
    let config = Config::parse(START, "x", Path::new(""), &overrides).unwrap();
    assert_eq!(config.target.ports.len(), 1);
    assert_eq!(config.target.ports[0].listen.to_string(), "[::1]:0");
    assert_eq!(config.settings.cpus.len(), 1);
    assert_eq!(config.settings.log.level, "debug");
    assert_eq!(config.settings.log.format, LogFormat::Json);
}

#[test]
fn the_printed_configuration_reads_as_itself() {
    let pools = "[[pool]]\nname = \"flash\"\ndevices = [\"/x\", \"d/y\"]\nrebuild_rate = 0\ntier = \"1MiB\"\n";
    let text = format!(
        "[reactor]\ncores = 2\n{pools}{}{KV}{}{}{}[[referral]]\naddress = \"192.0.2.1\"\n\
         [[referral]]\naddress = \"rdma://192.0.2.1\"\n[[port]]\naddress = \"rdma://[::]:4420\"\n",
        START.replace("\"any\"", "[\"nqn.host\"]").replace(":4420\"", ":4420\"\nadvertise = \"name.example\""),
        KV.replace("nsid = 1", "nsid = 7").replace("\"kv\"", "\"nvm\""),
        KV.replace("nsid = 1", "nsid = 8\nmode = \"cache\"\nreservation = \"1MiB\"")
            .replace("\"memory\"", "\"pool:flash\""),
        KV.replace("nsid = 1", "nsid = 9\ndurability = \"device\"").replace("\"memory\"", "\"/tmp/kvof-none\""),
    );
    let config = parse(&text).unwrap();
    let printed = config.to_toml();
    let again = parse(&printed).unwrap_or_else(|problems| panic!("{problems:#?}\n{printed}"));
    assert_eq!(again.settings, config.settings);
    assert_eq!(again.target.ports, config.target.ports);
    assert_eq!(again.target.referrals, config.target.referrals);
    assert_eq!(again.target.pools, config.target.pools);
    assert_eq!(format!("{:?}", again.target.subsystems), format!("{:?}", config.target.subsystems));
    assert_eq!(again.to_toml(), printed);
}

/// Uncomments every line of the sample that sets an option or begins a table.
fn uncommented(sample: &str) -> String {
    sample
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty()).unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_sample_works_and_its_comments_are_the_defaults() {
    let sample = include_str!("../../kvof-target.toml");
    assert_eq!(sample, super::sample(), "run `kvof-target --print-sample > target/kvof-target.toml`");
    let as_it_is = parse(sample).unwrap_or_else(|problems| panic!("{problems:#?}"));

    // Examples of options whose default depends on something differ from it, so they are left as comments here.
    let depends = ["advertise", "serial", "uuid", "nguid", "block_size", "mode", "durability", "reservation"];
    let all: Vec<String> = uncommented(sample).lines().map(str::to_owned).collect();
    let defaults: Vec<String> =
        all.iter().filter(|line| !depends.iter().any(|name| line.starts_with(&format!("{name} =")))).cloned().collect();
    let defaults = defaults.join("\n");
    let (defaults, referral) = defaults.split_once("[[referral]]").unwrap();
    let (before, pool) = defaults.split_once("[[pool]]").unwrap();
    let (pool, after) = pool.split_once("[[port]]").unwrap();
    assert!(pool.contains("devices = ["));
    let defaults = &format!("{before}[[port]]{after}");
    let full = parse(defaults).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(full.settings, as_it_is.settings);
    assert_eq!(full.to_toml(), as_it_is.to_toml());

    // With those too the file still parses, apart from the one that only the other kind of namespace has.
    let everything: Vec<String> = all.iter().filter(|line| !line.starts_with("block_size")).cloned().collect();
    let everything = everything.join("\n").replace("storage = \"memory\"", "storage = \"pool:flash\"");
    let config = parse(&everything).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!((config.target.referrals.len(), config.target.pools.len()), (1, 1), "{referral}");
    let mut blocks = all.join("\n").replace("kind = \"kv\"", "kind = \"nvm\"");
    for option in ["max_", "mode", "durability", "reservation"] {
        blocks = blocks.replace(&format!("\n{option}"), &format!("\n#{option}"));
    }
    let blocks = blocks.as_str();
    parse(blocks).unwrap_or_else(|problems| panic!("{problems:#?}"));
}

#[test]
fn the_reference_is_that_of_the_code() {
    let text = include_str!("../../../docs/configuration.md");
    assert_eq!(text, reference(), "run `kvof-target --print-reference > docs/configuration.md`");
}

#[test]
fn every_setting_shows_up_as_a_difference() {
    let docs: Vec<String> = File::docs()
        .iter()
        .filter(|table| !table.header.starts_with("[["))
        .flat_map(|table| table.options.iter().map(|o| format!("{}.{}", table.header.trim_matches(['[', ']']), o.name)))
        .collect();
    let one = parse(START).unwrap().settings;
    let other = Settings {
        cores: Cores::Count(1),
        cpus: vec![1],
        busy_poll: Duration::ZERO,
        memory: 0,
        limits: settings::Limits {
            connections: 1,
            controllers: 1,
            io_queues: 1,
            queue_size: 1,
            transfer: 1,
            association_timeout: Duration::ZERO,
        },
        tcp: settings::TcpSettings {
            in_capsule: 1,
            max_h2c_data: 1,
            max_r2t: 1,
            header_digest: false,
            data_digest: false,
            handshake_timeout: Duration::ZERO,
            pdu_timeout: Duration::ZERO,
        },
        rdma: settings::RdmaSettings {
            in_capsule: 1,
            queue_size: 1,
            receive_memory: 1,
            handshake_timeout: Duration::ZERO,
        },
        log: settings::LogSettings { level: String::new(), format: LogFormat::Json },
        drain_timeout: Duration::ZERO,
    };
    assert_eq!(one.differences(&other), docs);
    assert!(one.differences(&one.clone()).is_empty());
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "(\\[{1,2}(port|limits|subsystem|subsystem\\.namespace)\\]{1,2}\n|(nsid|size|nqn|address|cores) = [\"0-9a-zé.\\[\\],:{}=]{0,12}\n){0,12}") {
        if let Err(problems) = parse(&text) {
            for problem in problems {
                proptest::prop_assert!(!problem.to_string().is_empty());
            }
        }
    }
}
