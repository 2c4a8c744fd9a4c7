//! What hosts, the driver and time do to the target, as bytes.

use crate::input::Input;

/// Most descriptors of a list that is meant as one.
const LIST_MAX: u8 = 20;

/// The SGL of a command, and the memory that it names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Sgl {
    /// One keyed descriptor of so many bytes.
    Keyed { len: u32, invalidate: bool, fault: u8 },
    /// A list of them, `offset` bytes into the capsule.
    List { lens: Vec<u16>, offset: u8, fault: u8 },
    /// In the capsule: offset, length.
    InCapsule(u16, u32),
    /// Any descriptor.
    Raw { identifier: u8, address: u32, length: u32 },
}

/// A command to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Command {
    /// Which kind; see `target::kinds`.
    pub kind: u8,
    /// Picks the command identifier: 0 for a fresh one, otherwise this one.
    pub cid: u8,
    /// Namespace identifier.
    pub nsid: u8,
    /// Picks key, block, page or property.
    pub what: u8,
    /// Options, or what CDW11 holds.
    pub options: u8,
    /// Value size, host buffer size or number of blocks.
    pub size: u32,
    /// The SGL.
    pub sgl: Sgl,
    /// Bytes in the capsule behind the queue entry, at least those of a list.
    pub behind: u16,
}

/// One action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// A host asks for a connection.
    Open { core: u8, qid: u8, hrqsize: u8, hsqsize: u8, cntlid: u8 },
    /// A host asks for one with any private data.
    OpenRaw(Vec<u8>),
    /// Connect; `cntlid` 0 is the right one, `name` picks the subsystem, `form` where the data is.
    Connect { conn: u8, qid: u8, sqsize: u16, kato: u16, cattr: u8, name: u8, cntlid: u8, form: u8 },
    /// A command.
    Command { conn: u8, command: Command },
    /// Any message.
    Raw { conn: u8, bytes: Vec<u8> },
    /// A message of so many bytes.
    Message { conn: u8, len: u16 },
    /// Whether fetches (bit 0) and responses (bit 1) wait from now on.
    Hold { conn: u8, what: u8 },
    /// One of those that wait is carried out, or fails.
    Let { conn: u8, which: u8, fails: bool },
    /// Milliseconds pass, and timers are looked at.
    Time(u16),
    /// The queue pair ends.
    Close(u8),
    /// The storage works: so many outcomes are delivered.
    Work(u8),
    /// The target begins to stop, as far as this connection is concerned.
    Drain(u8),
    /// Namespace 4 of the first subsystem comes or goes.
    Reload(bool),
}

const KINDS: u8 = 13;

impl Sgl {
    fn read(input: &mut Input<'_>) -> Self {
        match input.u8() % 4 {
            0 => {
                let flags = input.u8();
                Self::Keyed { len: input.u32(), invalidate: flags & 1 != 0, fault: flags >> 1 }
            }
            1 => {
                let (count, offset, fault) = (input.u8() % (LIST_MAX + 1), input.u8(), input.u8());
                Self::List { lens: (0..count).map(|_| input.u16()).collect(), offset, fault }
            }
            2 => Self::InCapsule(input.u16(), input.u32()),
            _ => Self::Raw { identifier: input.u8(), address: input.u32(), length: input.u32() },
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Keyed { len, invalidate, fault } => {
                out.extend([0, u8::from(*invalidate) | fault << 1]);
                out.extend(len.to_le_bytes());
            }
            Self::List { lens, offset, fault } => {
                let lens = &lens[..lens.len().min(usize::from(LIST_MAX))];
                out.extend([1, lens.len() as u8, *offset, *fault]);
                out.extend(lens.iter().flat_map(|len| len.to_le_bytes()));
            }
            Self::InCapsule(offset, len) => {
                out.push(2);
                out.extend(offset.to_le_bytes());
                out.extend(len.to_le_bytes());
            }
            Self::Raw { identifier, address, length } => {
                out.extend([3, *identifier]);
                out.extend(address.to_le_bytes());
                out.extend(length.to_le_bytes());
            }
        }
    }
}

impl Action {
    /// The next action; `None` at the end.
    pub(crate) fn read(input: &mut Input<'_>) -> Option<Self> {
        if input.is_empty() {
            return None;
        }
        let (kind, conn) = (input.u8() % KINDS, input.u8());
        Some(match kind {
            0 => {
                Self::Open { core: conn, qid: input.u8(), hrqsize: input.u8(), hsqsize: input.u8(), cntlid: input.u8() }
            }
            1 => Self::OpenRaw(input.bytes(usize::from(conn)).to_vec()),
            2 => Self::Connect {
                conn,
                qid: input.u8(),
                sqsize: input.u16(),
                kato: input.u16(),
                cattr: input.u8(),
                name: input.u8(),
                cntlid: input.u8(),
                form: input.u8(),
            },
            3 | 4 => Self::Command {
                conn,
                command: Command {
                    kind: input.u8(),
                    cid: input.u8(),
                    nsid: input.u8(),
                    what: input.u8(),
                    options: input.u8(),
                    size: input.u32(),
                    sgl: Sgl::read(input),
                    behind: input.u16(),
                },
            },
            5 => {
                let len = input.u8();
                Self::Raw { conn, bytes: input.bytes(usize::from(len)).to_vec() }
            }
            6 => Self::Message { conn, len: input.u16() },
            7 => Self::Hold { conn, what: input.u8() },
            8 => Self::Let { conn, which: input.u8(), fails: input.u8() & 1 != 0 },
            9 => Self::Time(u16::from(conn) | u16::from(input.u8()) << 8),
            10 => match conn & 3 {
                0 => Self::Close(conn >> 2),
                1 => Self::Drain(conn >> 2),
                _ => Self::Reload(conn & 4 != 0),
            },
            _ => Self::Work(conn),
        })
    }

    /// The bytes that [`Self::read`] reads as this action.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open { core, qid, hrqsize, hsqsize, cntlid } => {
                out.extend([0, *core, *qid, *hrqsize, *hsqsize, *cntlid]);
            }
            Self::OpenRaw(bytes) => {
                let bytes = &bytes[..bytes.len().min(255)];
                out.extend([1, bytes.len() as u8]);
                out.extend(bytes);
            }
            Self::Connect { conn, qid, sqsize, kato, cattr, name, cntlid, form } => {
                out.extend([2, *conn, *qid]);
                out.extend(sqsize.to_le_bytes());
                out.extend(kato.to_le_bytes());
                out.extend([*cattr, *name, *cntlid, *form]);
            }
            Self::Command { conn, command: c } => {
                out.extend([3, *conn, c.kind, c.cid, c.nsid, c.what, c.options]);
                out.extend(c.size.to_le_bytes());
                c.sgl.write(out);
                out.extend(c.behind.to_le_bytes());
            }
            Self::Raw { conn, bytes } => {
                let bytes = &bytes[..bytes.len().min(255)];
                out.extend([5, *conn, bytes.len() as u8]);
                out.extend(bytes);
            }
            Self::Message { conn, len } => {
                out.extend([6, *conn]);
                out.extend(len.to_le_bytes());
            }
            Self::Hold { conn, what } => out.extend([7, *conn, *what]),
            Self::Let { conn, which, fails } => out.extend([8, *conn, *which, u8::from(*fails)]),
            Self::Time(ms) => {
                out.push(9);
                out.extend(ms.to_le_bytes());
            }
            Self::Close(conn) => out.extend([10, conn << 2]),
            Self::Drain(conn) => out.extend([10, conn << 2 | 1]),
            Self::Reload(present) => out.extend([10, 2 | u8::from(*present) << 2]),
            Self::Work(steps) => out.extend([11, *steps]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let command =
            Command { kind: 1, cid: 2, nsid: 3, what: 4, options: 5, size: 6000, sgl: Sgl::InCapsule(7, 8), behind: 9 };
        let keyed = Sgl::Keyed { len: 1 << 20, invalidate: true, fault: 3 };
        let list = Sgl::List { lens: vec![1, 2, 3000], offset: 7, fault: 2 };
        let raw = Sgl::Raw { identifier: 0x5a, address: 1 << 30, length: 5 };
        let actions = [
            Action::Open { core: 1, qid: 2, hrqsize: 3, hsqsize: 4, cntlid: 5 },
            Action::OpenRaw(vec![1, 2, 3]),
            Action::Connect { conn: 1, qid: 0, sqsize: 31, kato: 1000, cattr: 4, name: 1, cntlid: 2, form: 3 },
            Action::Command { conn: 0, command: command.clone() },
            Action::Command { conn: 1, command: Command { sgl: keyed, ..command.clone() } },
            Action::Command { conn: 2, command: Command { sgl: list, ..command.clone() } },
            Action::Command { conn: 3, command: Command { sgl: raw, ..command } },
            Action::Raw { conn: 1, bytes: vec![7; 64] },
            Action::Message { conn: 1, len: 8257 },
            Action::Hold { conn: 1, what: 3 },
            Action::Let { conn: 1, which: 2, fails: true },
            Action::Time(5000),
            Action::Close(5),
            Action::Drain(0),
            Action::Reload(true),
            Action::Work(2),
        ];
        let mut bytes = Vec::new();
        for action in &actions {
            action.write(&mut bytes);
        }
        let mut input = Input::new(&bytes);
        for action in actions {
            assert_eq!(Action::read(&mut input), Some(action));
        }
        assert!(Action::read(&mut input).is_none());
    }
}
