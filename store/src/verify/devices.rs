//! Labels and superblocks.

use super::{Finding, Kind, Report, Severity, Spot, Subject};
use crate::{
    device::BlockIo,
    format::{FormatError, Label, MemberState, PAGE, SUPERBLOCK_LEN, Superblock},
};

/// Checks both labels of each device that is present.
pub(super) fn labels(io: &mut dyn BlockIo, subject: &Subject, report: &mut Report) {
    let geometry = &subject.geometry;
    for (member, device) in (0u16..).zip(&subject.devices) {
        let spot = Spot { member: Some(member), ..Spot::default() };
        let Some(device) = device.filter(|_| io.is_present(member)) else {
            report.add(Finding::new(
                Kind::DeviceMissing,
                Severity::Repairable,
                spot,
                "its device is missing".to_owned(),
            ));
            continue;
        };
        let mut whole = 0;
        let mut findings = Vec::new();
        for (copy, offset) in [("first", 0), ("second", geometry.second_label())] {
            let mut page = vec![0; PAGE];
            let outcome = io.read(member, offset, &mut page).map_err(|error| error.to_string()).and_then(|()| {
                let label = Label::decode(&page).map_err(|error| error.to_string())?;
                let field = match () {
                    () if label.pool != subject.pool => "pool",
                    () if label.secret != subject.secret => "secret",
                    () if label.geometry != *geometry => "layout",
                    () if label.member != member => "member number",
                    () if label.device != device => "device",
                    () => return Ok(()),
                };
                Err(format!("it has another {field}"))
            });
            match outcome {
                Ok(()) => whole += 1,
                Err(why) => findings.push(format!("the {copy} copy of the label: {why}")),
            }
        }
        let severity = if whole > 0 { Severity::Repairable } else { Severity::Loss };
        findings.into_iter().for_each(|what| report.add(Finding::new(Kind::Label, severity, spot, what)));
    }
}

/// Checks all copies of a shard's superblock; the one that counts.
pub(super) fn superblock(
    io: &mut dyn BlockIo,
    subject: &Subject,
    shard: u16,
    report: &mut Report,
) -> Option<Superblock> {
    let geometry = &subject.geometry;
    let mut found: Vec<(u16, u64, Result<Superblock, String>)> = Vec::new();
    for member in
        (0..io.members()).filter(|member| subject.devices.get(usize::from(*member)).is_some_and(Option::is_some))
    {
        for slot in 0..2 {
            let mut bytes = vec![0; SUPERBLOCK_LEN];
            let read = io.read(member, geometry.superblock(shard, slot), &mut bytes);
            report.bytes += bytes.len() as u64;
            let decoded = match read {
                Err(error) => Err(error.to_string()),
                // A slot that was never written.
                Ok(()) if bytes.iter().all(|byte| *byte == 0) => continue,
                Ok(()) => decode(&bytes, subject, shard, slot),
            };
            found.push((member, slot, decoded));
        }
    }
    let whole = || found.iter().filter_map(|(member, _, superblock)| Some((*member, superblock.as_ref().ok()?)));
    let newest = whole().map(|(_, superblock)| superblock).max_by_key(|superblock| superblock.epoch).cloned();
    let spot = |member| Spot { member: Some(member), shard: Some(shard), ..Spot::default() };
    let Some(newest) = newest else {
        let what = "no device has a whole superblock of this shard".to_owned();
        let spot = Spot { shard: Some(shard), ..Spot::default() };
        report.add(Finding::new(Kind::SuperblockLost, Severity::Loss, spot, what));
        return None;
    };
    // A crash may have come between the devices, or in the middle of a write: the state before is in the other slot.
    let recent = |member: u16| {
        let own = whole().filter(|(other, _)| *other == member).map(|(_, found)| found.epoch).max();
        own.is_some_and(|epoch| !newest.clean && epoch + 1 >= newest.epoch)
    };
    let severity = |member| if recent(member) { Severity::Note } else { Severity::Repairable };
    for (member, slot, superblock) in &found {
        if let Err(why) = superblock {
            let what = format!("slot {slot} of the superblock: {why}");
            report.add(Finding::new(Kind::Superblock, severity(*member), spot(*member), what));
        }
    }
    for (member, known) in (0u16..).zip(&newest.members) {
        let finding = |kind, what: String| Finding::new(kind, Severity::Repairable, spot(member), what);
        let Some(device) = subject.devices.get(usize::from(member)).copied().flatten() else { continue };
        match known.state {
            _ if device != known.device => {
                report.add(finding(
                    Kind::DeviceOther,
                    "it is not the device that the superblock has in this place".to_owned(),
                ));
                continue;
            }
            MemberState::Failed => {
                report.add(finding(Kind::DeviceFailed, "it has failed: nothing on it counts".to_owned()));
            }
            MemberState::Rebuilding { rebuilt } => {
                let what = format!("it is being filled: groups below {rebuilt} of {} are complete", geometry.groups());
                report.add(finding(Kind::DeviceRebuilding, what));
            }
            MemberState::Live => {}
        }
        if known.state == MemberState::Failed {
            continue;
        }
        let own: Vec<&Superblock> = whole().filter(|(other, _)| *other == member).map(|(_, found)| found).collect();
        let epoch = own.iter().map(|found| found.epoch).max();
        if epoch != Some(newest.epoch) {
            let has = epoch.map_or("no whole superblock".to_owned(), |epoch| format!("epoch {epoch}"));
            let what = format!("it has {has}, the newest superblock has epoch {}", newest.epoch);
            report.add(Finding::new(Kind::Superblock, severity(member), spot(member), what));
        } else if own.iter().any(|found| found.epoch == newest.epoch && **found != newest) {
            let what = format!("its superblock of epoch {} is not that of the other devices", newest.epoch);
            report.add(finding(Kind::Superblock, what));
        }
    }
    Some(newest)
}

fn decode(bytes: &[u8], subject: &Subject, shard: u16, slot: u64) -> Result<Superblock, String> {
    let found = Superblock::decode(bytes).map_err(|error: FormatError| error.to_string())?;
    let field = match () {
        () if found.pool != subject.pool => "pool",
        () if found.shard != shard => "shard",
        () if found.members.len() != usize::from(subject.geometry.members()) => "number of devices",
        () if found.slot() != slot => "slot",
        () => return Ok(found),
    };
    Err(format!("it has another {field}"))
}
