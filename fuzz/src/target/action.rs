//! What hosts and time do to the target, as bytes.

use crate::input::Input;

/// Change of a header before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Damage {
    /// XORed to the byte at `offset` modulo the header's length; 0 changes nothing.
    pub xor: u8,
    /// Which byte.
    pub offset: u8,
    /// The header digest is computed before the damage, so that it does not match.
    pub late: bool,
}

/// The SGL descriptor of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sgl {
    /// Transport data of this length.
    Transport(u32),
    /// In the capsule: offset, length.
    InCapsule(u16, u32),
    /// Any identifier, with this length.
    Raw(u8, u32),
}

/// A command to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Command {
    /// Which kind; see `world::template`.
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
    /// Bytes of data in the capsule.
    pub capsule: u16,
    /// The data digest is wrong.
    pub bad_digest: bool,
    /// Damage to the header.
    pub damage: Damage,
}

/// How a host answers an R2T.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// All of it.
    Whole,
    /// This many bytes of it, more to follow.
    Part(u16),
    /// With another tag.
    WrongTag,
    /// From another offset.
    WrongOffset,
    /// More than was asked for.
    TooLong,
    /// For another command.
    WrongCommand,
    /// LAST_PDU although more is due.
    EarlyLast,
    /// All of it, with a wrong data digest.
    BadDigest,
}

const ANSWERS: [Answer; 8] = [
    Answer::Whole,
    Answer::Part(0),
    Answer::WrongTag,
    Answer::WrongOffset,
    Answer::TooLong,
    Answer::WrongCommand,
    Answer::EarlyLast,
    Answer::BadDigest,
];

/// One action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// A host connects; the core that the connection goes to.
    Open(u8),
    /// ICReq.
    IcReq { conn: u8, hpda: u8, digests: u8, maxr2t: u8, damage: Damage },
    /// Connect; `cntlid` 0 is the right one, `name` picks the subsystem.
    Connect {
        conn: u8,
        qid: u8,
        sqsize: u16,
        kato: u16,
        cattr: u8,
        name: u8,
        cntlid: u8,
        in_capsule: bool,
        damage: Damage,
    },
    /// A command.
    Command { conn: u8, command: Command },
    /// A command with these 64 bytes.
    RawCommand { conn: u8, sqe: [u8; 64] },
    /// H2CData for the outstanding R2T that `which` picks.
    Data { conn: u8, which: u8, answer: Answer, damage: Damage },
    /// Any bytes.
    Raw { conn: u8, bytes: Vec<u8> },
    /// Milliseconds pass, and timers are looked at.
    Time(u16),
    /// The host closes the connection.
    Close(u8),
    /// The storage works: so many outcomes are delivered.
    Work(u8),
    /// The target begins to stop, as far as this connection is concerned.
    Drain(u8),
    /// From now on this connection's bytes arrive in pieces of at most so many, in place where they can or not.
    Delivery { conn: u8, piece: u16, place: bool },
    /// Whether the host takes what the target sends.
    Listen { conn: u8, listens: bool },
    /// Namespace 4 of the first subsystem comes or goes.
    Reload(bool),
}

const KINDS: u8 = 14;

impl Damage {
    fn read(input: &mut Input<'_>) -> Self {
        match input.u8() {
            0 => Self::default(),
            xor => {
                let offset = input.u8();
                Self { xor, offset: offset & 0x7f, late: offset & 0x80 != 0 }
            }
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        out.push(self.xor);
        if self.xor != 0 {
            out.push(self.offset & 0x7f | u8::from(self.late) << 7);
        }
    }
}

impl Sgl {
    fn read(input: &mut Input<'_>) -> Self {
        match input.u8() % 4 {
            0 | 1 => Self::Transport(input.u32()),
            2 => Self::InCapsule(input.u16(), input.u32()),
            _ => Self::Raw(input.u8(), input.u32()),
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Transport(len) => {
                out.push(0);
                out.extend(len.to_le_bytes());
            }
            Self::InCapsule(offset, len) => {
                out.push(2);
                out.extend(offset.to_le_bytes());
                out.extend(len.to_le_bytes());
            }
            Self::Raw(identifier, len) => {
                out.extend([3, identifier]);
                out.extend(len.to_le_bytes());
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
            0 => Self::Open(conn),
            1 => Self::IcReq {
                conn,
                hpda: input.u8(),
                digests: input.u8(),
                maxr2t: input.u8(),
                damage: Damage::read(input),
            },
            2 => Self::Connect {
                conn,
                qid: input.u8(),
                sqsize: input.u16(),
                kato: input.u16(),
                cattr: input.u8(),
                name: input.u8(),
                cntlid: input.u8(),
                in_capsule: input.u8() & 1 != 0,
                damage: Damage::read(input),
            },
            3 => Self::Command {
                conn,
                command: Command {
                    kind: input.u8(),
                    cid: input.u8(),
                    nsid: input.u8(),
                    what: input.u8(),
                    options: input.u8(),
                    size: input.u32(),
                    sgl: Sgl::read(input),
                    capsule: input.u16(),
                    bad_digest: input.u8() & 1 != 0,
                    damage: Damage::read(input),
                },
            },
            4 => {
                let mut sqe = [0; 64];
                for (to, from) in sqe.iter_mut().zip(input.bytes(64)) {
                    *to = *from;
                }
                Self::RawCommand { conn, sqe }
            }
            5 => {
                let (which, answer) = (input.u8(), input.u8());
                let answer = match ANSWERS[usize::from(answer) % ANSWERS.len()] {
                    Answer::Part(_) => Answer::Part(input.u16()),
                    other => other,
                };
                Self::Data { conn, which, answer, damage: Damage::read(input) }
            }
            6 => {
                let len = input.u8();
                Self::Raw { conn, bytes: input.bytes(usize::from(len)).to_vec() }
            }
            7 => Self::Time(u16::from(conn) | u16::from(input.u8()) << 8),
            8 => Self::Close(conn),
            9 => Self::Work(conn),
            10 => Self::Drain(conn),
            11 => Self::Delivery { conn, piece: input.u16(), place: input.u8() & 1 != 0 },
            12 => Self::Listen { conn, listens: input.u8() & 1 != 0 },
            _ => Self::Reload(conn & 1 != 0),
        })
    }

    /// The bytes that [`Self::read`] reads as this action.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Open(core) => out.extend([0, *core]),
            Self::IcReq { conn, hpda, digests, maxr2t, damage } => {
                out.extend([1, *conn, *hpda, *digests, *maxr2t]);
                damage.write(out);
            }
            Self::Connect { conn, qid, sqsize, kato, cattr, name, cntlid, in_capsule, damage } => {
                out.extend([2, *conn, *qid]);
                out.extend(sqsize.to_le_bytes());
                out.extend(kato.to_le_bytes());
                out.extend([*cattr, *name, *cntlid, u8::from(*in_capsule)]);
                damage.write(out);
            }
            Self::Command { conn, command: c } => {
                out.extend([3, *conn, c.kind, c.cid, c.nsid, c.what, c.options]);
                out.extend(c.size.to_le_bytes());
                c.sgl.write(out);
                out.extend(c.capsule.to_le_bytes());
                out.push(u8::from(c.bad_digest));
                c.damage.write(out);
            }
            Self::RawCommand { conn, sqe } => {
                out.extend([4, *conn]);
                out.extend(sqe);
            }
            Self::Data { conn, which, answer, damage } => {
                let number = match answer {
                    Answer::Part(_) => 1,
                    other => ANSWERS.iter().position(|a| a == other).unwrap_or(0) as u8,
                };
                out.extend([5, *conn, *which, number]);
                if let Answer::Part(len) = answer {
                    out.extend(len.to_le_bytes());
                }
                damage.write(out);
            }
            Self::Raw { conn, bytes } => {
                let bytes = &bytes[..bytes.len().min(255)];
                out.extend([6, *conn, bytes.len() as u8]);
                out.extend(bytes);
            }
            Self::Time(ms) => {
                out.push(7);
                out.extend(ms.to_le_bytes());
            }
            Self::Close(conn) => out.extend([8, *conn]),
            Self::Work(steps) => out.extend([9, *steps]),
            Self::Drain(conn) => out.extend([10, *conn]),
            Self::Delivery { conn, piece, place } => {
                out.extend([11, *conn]);
                out.extend(piece.to_le_bytes());
                out.push(u8::from(*place));
            }
            Self::Listen { conn, listens } => out.extend([12, *conn, u8::from(*listens)]),
            Self::Reload(present) => out.extend([13, u8::from(*present)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let damage = Damage { xor: 3, offset: 9, late: true };
        let command = Command {
            kind: 1,
            cid: 2,
            nsid: 3,
            what: 4,
            options: 5,
            size: 6000,
            sgl: Sgl::InCapsule(7, 8),
            capsule: 9,
            bad_digest: true,
            damage,
        };
        let actions = [
            Action::Open(1),
            Action::IcReq { conn: 1, hpda: 3, digests: 2, maxr2t: 4, damage },
            Action::Connect {
                conn: 2,
                qid: 1,
                sqsize: 300,
                kato: 1000,
                cattr: 4,
                name: 1,
                cntlid: 0,
                in_capsule: true,
                damage: Damage::default(),
            },
            Action::Command { conn: 0, command: command.clone() },
            Action::Command { conn: 0, command: Command { sgl: Sgl::Raw(0x5a, 1), ..command.clone() } },
            Action::Command { conn: 0, command: Command { sgl: Sgl::Transport(1 << 20), ..command } },
            Action::RawCommand { conn: 3, sqe: [7; 64] },
            Action::Data { conn: 1, which: 2, answer: Answer::Part(500), damage },
            Action::Data { conn: 1, which: 2, answer: Answer::BadDigest, damage: Damage::default() },
            Action::Raw { conn: 1, bytes: vec![1, 2, 3] },
            Action::Time(5000),
            Action::Close(1),
            Action::Work(2),
            Action::Drain(0),
            Action::Delivery { conn: 1, piece: 1, place: true },
            Action::Listen { conn: 1, listens: false },
            Action::Reload(true),
        ];
        let mut bytes = Vec::new();
        actions.iter().for_each(|action| action.write(&mut bytes));
        let mut input = Input::new(&bytes);
        for action in actions {
            assert_eq!(Action::read(&mut input), Some(action));
        }
        assert_eq!(Action::read(&mut input), None);
    }
}
