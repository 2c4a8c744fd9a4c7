//! Fabrics and admin commands of the scripted controller.

use std::sync::{Arc, atomic::Ordering};

use kvof_kv::{IdentifyKvNamespace, KvPort};
use kvof_spec::fabrics::{ConnectAttributes, ConnectCmd, ConnectData, PropertyGetCmd, PropertySetCmd, fabrics_type};
use kvof_spec::identify::{
    Cns, Ctratt, IdentifyCmd, IdentifyController, IdentifyNamespace, NsDescriptor, NsDescriptorList, NsList, Oaes,
};
use kvof_spec::log::{GetLogPageCmd, LogId};
use kvof_spec::{
    AdminOpcode, Cap, Cc, Cqe, Csi, Csts, FabricsType, FromBytes, FromZeros, IntoBytes, Property, Sqe, Status, Vs,
};

use super::{BLOCKS, KV_NSID, NVM_NSID, State, Wire};

/// The state of one connection.
#[derive(Default)]
pub struct Session {
    pub qid: Option<u16>,
    cc: Cc,
    ready_reads: u32,
}

impl Session {
    pub fn handle(&mut self, state: &State, wire: &Arc<Wire>, sqe: &Sqe, data: &[u8]) {
        let cid = sqe.cid.get();
        if let Some(fctype) = fabrics_type(sqe) {
            self.fabrics(state, wire, sqe, fctype, data);
            return;
        }
        if state.behaviour().mute_admin {
            return;
        }
        match AdminOpcode(sqe.opcode) {
            AdminOpcode::IDENTIFY => identify(state, wire, &IdentifyCmd::from_sqe(sqe)),
            AdminOpcode::GET_LOG_PAGE => {
                let command = GetLogPageCmd::from_sqe(sqe);
                let (offset, len) = (command.lpo.get() as usize, command.length() as usize);
                let log = match command.lid() {
                    LogId::DISCOVERY => state.discovery.lock().unwrap().1.clone(),
                    LogId::CHANGED_NAMESPACES => vec![0; 4096],
                    _ => return wire.status(cid, Status::INVALID_LOG_PAGE.with_dnr()),
                };
                let mut page = log.get(offset..).unwrap_or_default().to_vec();
                page.resize(len, 0);
                wire.answer(cid, &page, 0);
            }
            AdminOpcode::SET_FEATURES => match sqe.cdw10.get() & 0xff {
                0x07 => {
                    let n = state.behaviour().io_queues.wrapping_sub(1);
                    wire.respond(Cqe::new(cid, Status::SUCCESS).with_result((n | n << 16).into()));
                }
                0x0b => wire.status(cid, Status::SUCCESS),
                0x20 => {
                    let set = state.port.admin_set_ednek(sqe.cdw11.get() & 1 != 0).unwrap().unwrap();
                    wire.status(cid, set);
                }
                _ => wire.status(cid, Status::INVALID_FIELD),
            },
            AdminOpcode::GET_FEATURES if sqe.cdw10.get() & 0xff == 0x20 => {
                let on = state.port.admin_get_ednek().unwrap().unwrap();
                wire.respond(Cqe::new(cid, Status::SUCCESS).with_result(on.into()));
            }
            AdminOpcode::ASYNC_EVENT_REQUEST => state.events.lock().unwrap().push((Arc::clone(wire), cid)),
            AdminOpcode::KEEP_ALIVE => {
                state.seen.keep_alives.fetch_add(1, Ordering::SeqCst);
                wire.status(cid, Status::SUCCESS);
            }
            _ => wire.status(cid, Status::INVALID_OPCODE.with_dnr()),
        }
    }

    fn fabrics(&mut self, state: &State, wire: &Wire, sqe: &Sqe, fctype: FabricsType, data: &[u8]) {
        let cid = sqe.cid.get();
        match fctype {
            FabricsType::CONNECT => {
                let command = ConnectCmd::from_sqe(sqe);
                let data = ConnectData::read_from_bytes(data).expect("Connect data has 1024 bytes");
                let hostnqn = String::from_utf8_lossy(&data.hostnqn).trim_end_matches('\0').to_owned();
                state.seen.hosts.lock().unwrap().push((hostnqn, data.hostid));
                state.seen.qids.lock().unwrap().push(command.qid.get());
                let disabled = command.cattr().contains(ConnectAttributes::DISABLE_SQ_FLOW_CONTROL);
                state.seen.flow_control_disabled.store(disabled, Ordering::SeqCst);
                let status = state.behaviour().connect_status;
                assert_eq!(data.cntlid.get(), if command.qid.get() == 0 { 0xffff } else { 7 });
                if status.is_success() {
                    self.qid = Some(command.qid.get());
                    wire.respond(Cqe::new(cid, status).with_result(7));
                } else {
                    wire.status(cid, status);
                }
            }
            FabricsType::PROPERTY_GET => {
                let value = match PropertyGetCmd::from_sqe(sqe).property() {
                    Property::CAP => {
                        let cap = Cap::default().with_mqes(state.behaviour().mqes).with_to(2);
                        cap.with_css_nvm(true).with_css_iocs(true).0
                    }
                    Property::VS => Vs::V2_0.0.into(),
                    Property::CC => self.cc.0.into(),
                    Property::CSTS => self.status(state).0.into(),
                    _ => return wire.status(cid, Status::INVALID_FIELD),
                };
                wire.respond(Cqe::new(cid, Status::SUCCESS).with_result(value));
            }
            FabricsType::PROPERTY_SET => {
                let command = PropertySetCmd::from_sqe(sqe);
                assert_eq!(command.property(), Property::CC);
                self.cc = Cc(command.value.get() as u32);
                if self.cc.shn() != 0 {
                    state.seen.shutdowns.fetch_add(1, Ordering::SeqCst);
                }
                wire.status(cid, Status::SUCCESS);
            }
            _ => wire.status(cid, Status::INVALID_FIELD),
        }
    }

    fn status(&mut self, state: &State) -> Csts {
        if self.cc.shn() != 0 {
            return Csts::default().with_shst(Csts::SHST_COMPLETE);
        }
        self.ready_reads += 1;
        Csts::default().with_rdy(self.cc.en() && self.ready_reads > state.behaviour().ready_after)
    }
}

fn identify(state: &State, wire: &Wire, command: &IdentifyCmd) {
    let (cid, nsid) = (command.head.cid.get(), command.head.nsid.get());
    let data = match (command.cns(), nsid) {
        (Cns::CONTROLLER, _) => identify_controller(state).as_bytes().to_vec(),
        (Cns::ACTIVE_NAMESPACES, after) => NsList::after(after, [KV_NSID, NVM_NSID]).as_bytes().to_vec(),
        (Cns::NAMESPACE_DESCRIPTORS, KV_NSID) => {
            let list = [NsDescriptor::Uuid([9; 16]), NsDescriptor::Csi(Csi::KV)];
            NsDescriptorList::new(list).unwrap().as_bytes().to_vec()
        }
        (Cns::NAMESPACE_DESCRIPTORS, NVM_NSID) => {
            let list = [NsDescriptor::Nguid([8; 16]), NsDescriptor::Csi(Csi::NVM)];
            NsDescriptorList::new(list).unwrap().as_bytes().to_vec()
        }
        (Cns::IOCS_NAMESPACE, KV_NSID) if command.csi() == Csi::KV => {
            let bytes = state.port.admin_identify_namespace().unwrap().unwrap();
            IdentifyKvNamespace::from_bytes(&bytes).unwrap().as_bytes().to_vec()
        }
        (Cns::NAMESPACE, NVM_NSID) => {
            let mut data = IdentifyNamespace::new_zeroed();
            data.nsze = (BLOCKS as u64).into();
            data.lbaf[0].lbads = 9;
            data.as_bytes().to_vec()
        }
        _ => return wire.status(cid, Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr()),
    };
    wire.answer(cid, &data, 0);
}

fn identify_controller(state: &State) -> IdentifyController {
    let behaviour = state.behaviour();
    let mut data = IdentifyController::new_zeroed();
    data.set_names("SERIAL", "Scripted", "1").unwrap();
    data.cntlid = 7.into();
    data.ver = Vs::V2_0.0.into();
    data.mdts = behaviour.mdts;
    data.kas = 1.into();
    data.maxcmd = 128.into();
    data.sgls = behaviour.sgls.into();
    data.msdbd = behaviour.msdbd;
    data.ioccsz = behaviour.ioccsz.into();
    data.iorcsz = 1.into();
    data.oaes = (Oaes::NAMESPACE_ATTRIBUTE | Oaes::DISCOVERY_LOG_CHANGE).bits().into();
    if behaviour.traffic_based_keep_alive {
        data.ctratt = Ctratt::TBKAS.bits().into();
    }
    data
}
