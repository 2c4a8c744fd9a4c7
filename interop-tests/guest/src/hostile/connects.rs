//! Connection requests that say nonsense, too many of them, and connections that nothing is done with.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvof_spec::IntoBytes;
use kvof_spec::rdma::{CmRequest, CmStatus};

use super::raw::{Answer, Asked, Raw, Shape};
use super::session::{ENTRIES, Host, Place};
use crate::pattern::Random;

/// Few receives: these connections are for nothing.
const SMALL: Shape = Shape { receives: 2, promised: 2, sends: 2, send_size: 64 };

pub(super) fn fields(place: &Place, _: &mut Random) -> Result<()> {
    let good = CmRequest::new(0, ENTRIES, ENTRIES - 1, 0);
    let io = CmRequest::new(1, ENTRIES, ENTRIES - 1, 1);
    let cases = [
        (CmRequest { recfmt: 1.into(), ..good }, CmStatus::INVALID_RECFMT),
        (CmRequest { recfmt: 0xffff.into(), ..good }, CmStatus::INVALID_RECFMT),
        (CmRequest { qid: 0xffff.into(), ..good }, CmStatus::INVALID_QID),
        (CmRequest { hsqsize: 0.into(), ..good }, CmStatus::INVALID_HSQSIZE),
        (CmRequest { hsqsize: 0xffff.into(), ..good }, CmStatus::INVALID_HSQSIZE),
        (CmRequest { hsqsize: 4096.into(), ..good }, CmStatus::INVALID_HSQSIZE),
        (CmRequest { hrqsize: 0.into(), ..good }, CmStatus::INVALID_HRQSIZE),
        (CmRequest { hsqsize: 0.into(), ..io }, CmStatus::INVALID_HSQSIZE),
        (CmRequest { hrqsize: 0.into(), ..io }, CmStatus::INVALID_HRQSIZE),
        (CmRequest { cntlid: 0xfff0.into(), ..io }, CmStatus::INVALID_CNTLID),
        (CmRequest { cntlid: 0xffff.into(), ..io }, CmStatus::INVALID_CNTLID),
    ];
    for (request, wanted) in cases {
        refused(place, request.as_bytes(), wanted).with_context(|| format!("{request:?}"))?;
    }
    // The connection manager pads what is short with zeros.
    refused(place, &[], CmStatus::INVALID_HSQSIZE).context("no private data")?;
    refused(place, &[0; 4], CmStatus::INVALID_HSQSIZE).context("4 bytes of private data")
}

pub(super) fn random(place: &Place, random: &mut Random) -> Result<()> {
    for _ in 0..12 {
        let mut bytes = [0; 32];
        random.fill(&mut bytes);
        // Half of them get beyond the record format.
        if random.next() & 1 == 0 {
            bytes[..2].fill(0);
        }
        // Yes or a proper no: all else is an error.
        let _ = Asked::new(place.address, SMALL, &bytes)?.answer().with_context(|| format!("{bytes:02x?}"))?;
    }
    Ok(())
}

pub(super) fn flood(place: &Place, _: &mut Random) -> Result<()> {
    let request = CmRequest::new(0, 2, ENTRIES - 1, 0);
    for _ in 0..2 {
        let asked: Vec<Asked> =
            (0..16).map(|_| Asked::new(place.address, SMALL, request.as_bytes())).collect::<Result<_>>()?;
        for one in asked.into_iter().step_by(2) {
            one.answer()?;
        }
    }
    for _ in 0..24 {
        Asked::new(place.address, SMALL, request.as_bytes())?.answer()?;
    }
    Ok(())
}

/// Nobody here looks for the answers, so that the target's acceptances are never confirmed.
pub(super) fn half_open(place: &Place, random: &mut Random) -> Result<()> {
    let request = CmRequest::new(0, 2, ENTRIES - 1, 0);
    let asked: Vec<Asked> =
        (0..24).map(|_| Asked::new(place.address, SMALL, request.as_bytes())).collect::<Result<_>>()?;
    let mut host = Host::new(place).context("beside connections that are never finished")?;
    for _ in 0..8 {
        host.round_trip(random.next(), 5000)?;
        thread::sleep(Duration::from_millis(100));
    }
    drop(asked);
    host.round_trip(random.next(), 5000)
}

pub(super) fn silent(place: &Place, random: &mut Random) -> Result<()> {
    let request = CmRequest::new(0, ENTRIES, ENTRIES - 1, 0);
    let mut connections: Vec<Raw> =
        (0..12).map(|_| Raw::connect(place.address, SMALL, request.as_bytes())).collect::<Result<_>>()?;
    Host::new(place).and_then(|mut host| host.round_trip(random.next(), 5000)).context("beside silent connections")?;
    // The target gives up on them.
    for connection in &mut connections {
        connection.wait_for_end()?;
    }
    Ok(())
}

fn refused(place: &Place, private_data: &[u8], wanted: CmStatus) -> Result<()> {
    match Asked::new(place.address, SMALL, private_data)?.answer()? {
        Answer::Refused(status) => {
            ensure!(status == wanted, "refused with '{status}', where '{wanted}' was due");
            Ok(())
        }
        Answer::Accepted(_) => anyhow::bail!("accepted, where '{wanted}' was due"),
    }
}
