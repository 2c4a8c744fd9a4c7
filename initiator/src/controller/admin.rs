//! Admin commands of a connected controller.

use std::sync::Arc;

use kvof_spec::feature::{FeatureId, FeatureSelect, GetFeaturesCmd, SetFeaturesCmd};
use kvof_spec::identify::{
    Cns, IDENTIFY_SIZE, IdentifyCmd, NS_LIST_ENTRIES, NSID_ALL, NsDescriptor, NsDescriptors, NsList,
};
use kvof_spec::log::{GetLogPageCmd, LogId};
use kvof_spec::{Csi, FromBytes, Sqe};

use super::{Controller, RawCompletion};
use crate::{Error, Result, buffer::Payload, queue::Reply};

/// Most namespaces that are believed.
const NAMESPACES_MAX: usize = 65_536;

/// The data of an admin command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminData {
    /// None.
    None,
    /// These bytes, to the controller.
    ToController(Vec<u8>),
    /// That many bytes from the controller.
    FromController(usize),
}

/// What the controller says of one of its namespaces (CNS 03h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NamespaceInfo {
    /// Namespace identifier.
    pub nsid: u32,
    /// Command set.
    pub csi: Csi,
    /// Namespace Globally Unique Identifier, if it has one.
    pub nguid: Option<[u8; 16]>,
    /// Namespace UUID, if it has one.
    pub uuid: Option<[u8; 16]>,
    /// IEEE Extended Unique Identifier, if it has one.
    pub eui64: Option<[u8; 8]>,
}

impl Controller {
    /// Sends an admin command as it is, but for its CID and SGL, and gives the completion, whatever its status, and
    /// the data that came.
    ///
    /// # Errors
    /// Whatever prevents a completion; an error status is a completion.
    pub async fn admin(&self, sqe: Sqe, data: AdminData) -> Result<(RawCompletion, Vec<u8>)> {
        let payload = match data {
            AdminData::None => Payload::None,
            AdminData::ToController(bytes) => Payload::to_controller(bytes),
            AdminData::FromController(len) => Payload::from_controller(vec![0u8; len]),
        };
        let reads = matches!(payload, Payload::In(_));
        let (result, payload) = self.admin_send("admin command", sqe, payload).await;
        let completion = RawCompletion::from_result(result)?;
        let mut bytes: Vec<u8> = payload.take().filter(|_| reads).unwrap_or_default();
        bytes.truncate(completion.received as usize);
        Ok((completion, bytes))
    }

    /// Identify with `cns` for namespace `nsid` and command set `csi`: 4096 bytes.
    ///
    /// # Errors
    /// [`Error::Status`] and whatever prevents a completion.
    pub async fn identify(&self, cns: Cns, nsid: u32, csi: Csi) -> Result<Vec<u8>> {
        self.admin_read("Identify", IdentifyCmd::new(cns, nsid, csi).to_sqe(), IDENTIFY_SIZE).await
    }

    /// Get Log Page: `len` bytes (a multiple of 4) of log `lid` from `offset` on.
    ///
    /// # Errors
    /// [`Error::Status`] and whatever prevents a completion.
    pub async fn log_page(&self, lid: LogId, csi: Csi, offset: u64, len: u32) -> Result<Vec<u8>> {
        let command = GetLogPageCmd::new(lid, NSID_ALL, offset, u64::from(len)).ok_or_else(|| {
            Error::argument("log page offset and length", format!("{offset}, {len}"), "multiples of 4")
        })?;
        self.admin_read("Get Log Page", command.with_csi(csi).to_sqe(), len as usize).await
    }

    /// Get Features: the current value of feature `fid`, completion dword 0.
    ///
    /// # Errors
    /// [`Error::Status`] and whatever prevents a completion.
    pub async fn get_feature(&self, fid: FeatureId, nsid: u32) -> Result<u32> {
        let mut command = GetFeaturesCmd::new(fid, FeatureSelect::CURRENT);
        command.head.nsid = nsid.into();
        let (result, _) = self.admin_send("Get Features", command.to_sqe(), Payload::None).await;
        Ok(result?.cqe.dw0.get())
    }

    /// Set Features: `value` is command dword 11; gives completion dword 0.
    ///
    /// # Errors
    /// [`Error::Status`] and whatever prevents a completion.
    pub async fn set_feature(&self, fid: FeatureId, nsid: u32, value: u32) -> Result<u32> {
        let mut command = SetFeaturesCmd::new(fid, value);
        command.head.nsid = nsid.into();
        let (result, _) = self.admin_send("Set Features", command.to_sqe(), Payload::None).await;
        Ok(result?.cqe.dw0.get())
    }

    /// The active namespaces, in the order of their identifiers, with their command sets.
    ///
    /// # Errors
    /// [`Error::Status`], [`Error::InvalidAnswer`] and whatever prevents a completion.
    pub async fn namespaces(&self) -> Result<Vec<NamespaceInfo>> {
        let mut namespaces: Vec<NamespaceInfo> = Vec::new();
        let mut after = 0;
        loop {
            let list = self.identify(Cns::ACTIVE_NAMESPACES, after, Csi::NVM).await?;
            let list = NsList::ref_from_bytes(&list)
                .map_err(|_| Error::invalid_answer("Identify (Active Namespace ID list)", "not a list"))?;
            let mut count = 0;
            for nsid in list.iter() {
                if nsid <= after {
                    let reason = format!("namespace {nsid} is listed after {after}");
                    return Err(Error::invalid_answer("Identify (Active Namespace ID list)", reason));
                }
                after = nsid;
                count += 1;
                if namespaces.len() >= NAMESPACES_MAX {
                    let reason = format!("more than {NAMESPACES_MAX} namespaces");
                    return Err(Error::invalid_answer("Identify (Active Namespace ID list)", reason));
                }
                // A namespace that has gone meanwhile is no error.
                match self.namespace(nsid).await {
                    Ok(namespace) => namespaces.push(namespace),
                    Err(Error::Status { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if count < NS_LIST_ENTRIES {
                return Ok(namespaces);
            }
        }
    }

    /// Namespace `nsid` as CNS 03h describes it.
    ///
    /// # Errors
    /// [`Error::Status`] and whatever prevents a completion.
    pub async fn namespace(&self, nsid: u32) -> Result<NamespaceInfo> {
        let list = self.identify(Cns::NAMESPACE_DESCRIPTORS, nsid, Csi::NVM).await?;
        Ok(parse_descriptors(nsid, &list))
    }

    async fn admin_read(&self, name: &'static str, sqe: Sqe, len: usize) -> Result<Vec<u8>> {
        let (result, payload) = self.admin_send(name, sqe, Payload::from_controller(vec![0u8; len])).await;
        let received = result?.received;
        if received as usize != len {
            return Err(Error::invalid_answer(name, format!("{received} of {len} bytes came")));
        }
        Ok(payload.take().unwrap_or_default())
    }

    async fn admin_send(&self, name: &'static str, sqe: Sqe, payload: Payload) -> (Result<Reply>, Payload) {
        let shared = self.shared();
        shared.send(&Arc::clone(&shared.admin), name, sqe, payload, None, false).await
    }
}

/// Reads a Namespace Identification Descriptor list, up to the first malformed descriptor.
fn parse_descriptors(nsid: u32, list: &[u8]) -> NamespaceInfo {
    let mut info = NamespaceInfo { nsid, csi: Csi::NVM, nguid: None, uuid: None, eui64: None };
    for descriptor in NsDescriptors::new(list).map_while(|d| d.ok()) {
        match descriptor {
            NsDescriptor::Eui64(id) => info.eui64 = Some(id),
            NsDescriptor::Nguid(id) => info.nguid = Some(id),
            NsDescriptor::Uuid(id) => info.uuid = Some(id),
            NsDescriptor::Csi(csi) => info.csi = csi,
            NsDescriptor::Other { .. } => {}
        }
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_a_kv_namespace() {
        let mut list = vec![0u8; IDENTIFY_SIZE];
        let mut at = 0;
        for (nidt, nid) in [(2u8, &[7u8; 16][..]), (9, &[1; 3]), (4, &[1])] {
            list[at..at + 2].copy_from_slice(&[nidt, nid.len() as u8]);
            list[at + 4..at + 4 + nid.len()].copy_from_slice(nid);
            at += 4 + nid.len();
        }
        let info = parse_descriptors(5, &list);
        assert_eq!((info.nsid, info.csi, info.nguid, info.uuid), (5, Csi::KV, Some([7; 16]), None));
        assert_eq!(parse_descriptors(1, &[4, 200, 0, 0, 1]).csi, Csi::NVM);
        assert_eq!(parse_descriptors(1, &[]).csi, Csi::NVM);
    }
}
