//! Parsers: headers of PDUs under every agreement, and data structures as they come from the other end.

use kvof_kv::{IdentifyKvNamespace, Key, KvCommand, KvLimits, ListReader};
use kvof_spec::{
    Cqe, FromBytes, IntoBytes, Nqn, Sqe,
    fabrics::ConnectData,
    identify::{
        IdentifyController, IdentifyIocs, IdentifyNamespace, IdentifyNamespaceIndependent, IdentifyNamespaceNvm,
        NsDescriptors, NsList,
    },
    log::{ChangedNamespaceList, CommandsSupported, DiscoveryEntry, DiscoveryHeader, ErrorInformation, SmartHealth},
    rdma::CmRequest,
    sgl::SglDescriptor,
    tcp::{CommonHeader, Digests, FatalErrorStatus, PduType, ReceiveRules, Receiver, TermReq},
    text,
};

use crate::input::Input;

/// Parses `data` as everything.
pub fn pdu(data: &[u8]) {
    header(data);
    commands(data);
    structures(data);
    names(data);
    keys(data);
}

/// A common header under every agreement that two ends can have; limits come from the bytes behind it.
fn header(data: &[u8]) {
    let Ok((ch, rest)) = CommonHeader::read_from_prefix(data) else { return };
    let mut input = Input::new(rest);
    let (in_capsule_max, data_max) = (input.u32(), input.u32());
    for receiver in [Receiver::Controller, Receiver::Host] {
        for digests in (0..4).map(Digests::from_byte) {
            for pda in [0, 1, 3, 15, 31] {
                let rules = ReceiveRules { receiver, digests, pda, in_capsule_max, data_max };
                match ch.check(&rules) {
                    Ok(frame) => {
                        assert_eq!(frame.total(), ch.plen.get() as usize, "{ch:?}");
                        assert!(frame.header_total() <= frame.data_offset || frame.data_len == 0, "{ch:?}: {frame:?}");
                        assert!(frame.header_total() <= 132, "{ch:?}: {frame:?}");
                        let to_host = receiver == Receiver::Host;
                        let limit = match frame.kind {
                            PduType::CAPSULE_CMD => in_capsule_max,
                            PduType::H2C_DATA | PduType::C2H_DATA => data_max,
                            PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ => 128,
                            _ => 0,
                        };
                        assert!(frame.data_len <= limit, "{ch:?}: {frame:?}");
                        assert_eq!(to_host, !matches!(ch.pdu_type, 0 | 2 | 4 | 6), "{ch:?}");
                        let padded = frame.data_len > 0 && !frame.kind.is_term_req();
                        assert!(
                            !padded || frame.data_offset.is_multiple_of((usize::from(pda) + 1) * 4),
                            "{ch:?}: {frame:?}"
                        );
                    }
                    Err(fatal) => {
                        // It is quotable as it is.
                        let known = (1..=6).contains(&fatal.fes.0);
                        assert!(
                            known && (fatal.fes != FatalErrorStatus::INVALID_HEADER_FIELD || fatal.fei < 8),
                            "{fatal:?}"
                        );
                        let term = TermReq::new(PduType::C2H_TERM_REQ, fatal.fes, fatal.fei, rest.len());
                        assert!(term.ch.plen.get() <= 152);
                    }
                }
            }
        }
    }
}

fn commands(data: &[u8]) {
    if let Ok((sgl, _)) = SglDescriptor::read_from_prefix(data) {
        let decoded = sgl.decode();
        assert!(decoded.data_length().is_none_or(|len| len <= sgl.length.get()));
        assert!(!format!("{decoded:?} {sgl:?}").is_empty());
    }
    if let Some(bytes) = data.first_chunk::<64>() {
        let sqe = Sqe::from_bytes(bytes);
        assert_eq!(&sqe.to_bytes(), bytes);
        let command = KvCommand::from_sqe(&sqe);
        for limits in [
            KvLimits { kvkml: 16, kvvml: 1 << 20, mnks: 0, novg: 0 },
            KvLimits { kvkml: 4, kvvml: 0, mnks: 1, novg: 4096 },
        ] {
            if let Ok(op) = command.validate(&limits) {
                let most = op.max_transfer();
                assert!(op.check_data_length(most).is_ok(), "{op:?}");
                assert!(most == 0 || op.check_data_length(most - 1).is_err(), "{op:?} would take {most} - 1 bytes");
            }
        }
    }
    if let Some(bytes) = data.first_chunk::<16>() {
        let cqe = Cqe::from_bytes(bytes);
        assert_eq!(cqe.with_result(cqe.result()).to_bytes(), *bytes);
        assert!(!cqe.status().to_string().is_empty());
    }
    let _ = CmRequest::parse(data);
}

/// Structures of fixed size, from a buffer of that size as a host or a controller has it, whatever came.
fn structures(data: &[u8]) {
    let mut page = [0_u8; 4096];
    for (to, from) in page.iter_mut().zip(data) {
        *to = *from;
    }
    if let Ok(c) = IdentifyController::read_from_bytes(&page) {
        let _ = (c.serial_number(), c.model_number(), c.firmware_revision(), c.subnqn(), c.in_capsule_data_max());
        let _ = (c.transfer_max(4096), c.transfer_max(0), c.transfer_max(u32::MAX));
    }
    if let Ok(ns) = IdentifyNamespace::read_from_bytes(&page) {
        let size = ns.block_size();
        assert!(size.is_none_or(u32::is_power_of_two));
        let _ = (ns.format(), ns.format_index());
    }
    if let Some(ns) = IdentifyKvNamespace::from_bytes(&page) {
        let _ = (ns.format(), ns.limits());
    }
    if let Ok(list) = NsList::read_from_bytes(&page) {
        assert!(list.iter().count() <= 1024);
    }
    if let Ok(list) = ChangedNamespaceList::read_from_bytes(&page) {
        let _ = list.overflowed();
    }
    if let Ok(iocs) = IdentifyIocs::read_from_bytes(&page) {
        assert!(iocs.iter().count() <= 512);
    }
    let _ = IdentifyNamespaceIndependent::read_from_bytes(&page).map(|ns| (ns.nmic(), ns.nstat()));
    let _ = IdentifyNamespaceNvm::read_from_bytes(&page);
    if let Ok(effects) = CommandsSupported::read_from_bytes(&page) {
        let _ = (effects.admin(data.first().copied().unwrap_or(0)), effects.io(0xff));
    }
    let _ = SmartHealth::read_from_prefix(&page).map(|(smart, _)| smart.critical_warning());
    let _ = ErrorInformation::read_from_prefix(&page).map(|(entry, _)| entry.status());
    let _ = DiscoveryHeader::read_from_prefix(&page).map(|(header, _)| format!("{header:?}"));
    if let Ok((entry, _)) = DiscoveryEntry::read_from_prefix(&page) {
        let _ =
            (entry.traddr(), entry.trsvcid(), entry.subnqn(), entry.socket_addr(), entry.tcp_security(), entry.rdma());
        assert!(!format!("{entry:?}").is_empty());
    }
    let mut descriptors = NsDescriptors::new(data);
    let seen = descriptors.by_ref().take(data.len() + 1).collect::<Vec<_>>();
    assert!(seen.len() <= data.len(), "more descriptors than bytes");
    assert!(seen.iter().rev().skip(1).all(Result::is_ok), "it went on after an error");
    assert!(descriptors.next().is_none());
}

fn names(data: &[u8]) {
    let mut field = [0_u8; 256];
    for (to, from) in field.iter_mut().zip(data) {
        *to = *from;
    }
    if let Ok(nqn) = Nqn::from_field(&field) {
        assert!((5..=223).contains(&nqn.as_str().len()));
        assert_eq!(Nqn::from_field(&nqn.to_field()).as_ref(), Ok(&nqn));
        let _ = nqn.uuid();
    }
    if let Ok((connect, _)) = ConnectData::read_from_prefix(data) {
        assert!(!format!("{connect:?}").is_empty());
        assert_eq!(data.get(..1024), Some(connect.as_bytes()));
    }
    if let Ok(text) = text::from_field(data) {
        assert!(text.is_ascii() && text.len() <= data.len());
    }
}

fn keys(data: &[u8]) {
    if let Ok(key) = Key::new(data) {
        assert_eq!(key.as_bytes(), data);
        assert_eq!(Key::parse(&key.to_string()), Ok(key));
    }
    if let Ok(text) = str::from_utf8(data) {
        let _ = Key::parse(text);
    }
    if let Ok(mut list) = ListReader::new(data) {
        let keys = list.by_ref().take(data.len() + 1).collect::<Vec<_>>();
        assert!(keys.len() <= data.len(), "more keys than bytes");
        assert!(keys.iter().rev().skip(1).all(Result::is_ok), "it went on after an error");
        assert!(list.next().is_none());
    }
}
