//! Where the data of commands are received, and which commands wait until theirs are: for their turn, or for memory of the pool.

use kvof_io::{Pool, PoolBuf};

use super::{
    CommandIndex, Cx, Queue, Step,
    command::{Command, Landing, Stage, Then},
};

/// Data of a command that are longer than this leave memory for those of shorter ones, and for what is read.
const PATIENT: u32 = 64 << 10;

impl Queue {
    /// Whether commands wait for pool memory, those in line included whose turn has come: [`Self::poll_starved`].
    #[must_use]
    pub fn is_starved(&self) -> bool {
        !self.starved.is_empty() || (!self.in_line.is_empty() && !self.fetches_enough)
    }

    /// Whether the transport has enough data to fetch for now. While it has, commands with data that did not come in their capsule wait in
    /// line, and have no memory yet.
    pub const fn set_fetches_enough(&mut self, enough: bool) {
        self.fetches_enough = enough;
    }

    /// Whether commands wait until the transport fetches more data.
    #[must_use]
    pub fn is_in_line(&self) -> bool {
        !self.in_line.is_empty()
    }

    /// Where the data of a command that is being received lies.
    pub fn landing(&mut self, index: CommandIndex) -> Option<&mut Landing> {
        match &mut self.commands.get_mut(index)?.stage {
            Stage::Receiving { landing, .. } => Some(landing),
            _ => None,
        }
    }

    /// Takes the landing of a command that is being received, for a device to fill. [`Self::put_landing`] brings it back;
    /// until then the command goes neither on nor away, unless the queue is abandoned.
    pub fn take_landing(&mut self, index: CommandIndex) -> Option<Landing> {
        let command = self.commands.get_mut(index)?;
        match std::mem::replace(&mut command.stage, Stage::Executing) {
            Stage::Receiving { landing, then } => {
                command.stage = Stage::Lent { then };
                Some(landing)
            }
            other => {
                command.stage = other;
                None
            }
        }
    }

    /// Brings a landing back: [`Self::received`] may follow. False, and the memory is freed, if no command waits for it.
    pub fn put_landing(&mut self, index: CommandIndex, landing: Landing) -> bool {
        let Some(command) = self.commands.get_mut(index) else { return false };
        match std::mem::replace(&mut command.stage, Stage::Executing) {
            Stage::Lent { then } => {
                command.stage = Stage::Receiving { landing, then };
                true
            }
            other => {
                command.stage = other;
                false
            }
        }
    }

    /// The next step of a command that waited for memory, if memory has come back, or whose turn has come.
    pub fn poll_starved(&mut self, cx: &mut Cx<'_>) -> Option<Step> {
        let Some(&index) = self.starved.front() else { return self.poll_in_line(cx) };
        let Some(command) = self.commands.get_mut(index) else {
            self.starved.pop_front();
            return Some(Step::Later);
        };
        let step = match std::mem::replace(&mut command.stage, Stage::Executing) {
            Stage::AwaitMemory { len, then } => match landing_of(cx.pool, len) {
                Some(buf) => {
                    command.stage = Stage::Receiving { landing: Landing::Pool(buf), then };
                    Step::Receive { index, len }
                }
                None => {
                    command.stage = Stage::AwaitMemory { len, then };
                    return None;
                }
            },
            Stage::Spilled { bytes, then } => match cx.pool.alloc(bytes.len()) {
                Some(mut buf) => {
                    unspill(&mut buf, &bytes);
                    self.submit(cx, index, then, buf)
                }
                None => {
                    command.stage = Stage::Spilled { bytes, then };
                    return None;
                }
            },
            Stage::AwaitSubmit(request) => {
                let step = self.submit_request(cx, index, request);
                // Starved again: it is at the back of the line now, and nobody else will fare better.
                if matches!(self.commands.get(index), Some(Command { stage: Stage::AwaitSubmit(_), .. })) {
                    self.starved.pop_back();
                    return None;
                }
                step
            }
            other => {
                command.stage = other;
                Step::Later
            }
        };
        self.starved.pop_front();
        Some(step)
    }

    fn poll_in_line(&mut self, cx: &Cx<'_>) -> Option<Step> {
        if self.fetches_enough {
            return None;
        }
        let index = self.in_line.pop_front()?;
        let Some(command) = self.commands.get_mut(index) else { return Some(Step::Later) };
        Some(match std::mem::replace(&mut command.stage, Stage::Executing) {
            Stage::AwaitTurn { len, then } => self.fetch(cx, index, len, then),
            other => {
                command.stage = other;
                Step::Later
            }
        })
    }

    pub(super) fn receive_pool(&mut self, cx: &mut Cx<'_>, index: usize, len: u32, then: Then) -> Step {
        // No bytes need no turn, and nothing would bring them.
        if len == 0
            && let Some(buf) = cx.pool.alloc(0)
        {
            return self.submit(cx, index, then, buf);
        }
        if self.commands.get(index).is_some_and(|c| c.data.in_capsule) {
            // The bytes are on their way already and cannot be held off; what may come in capsules is small, and bounded
            // by the depth of the queue.
            let landing =
                self.landing_of(cx.pool, len).map_or_else(|| Landing::Heap(vec![0; len as usize]), Landing::Pool);
            self.set_stage(index, Stage::Receiving { landing, then });
            return Step::Receive { index, len };
        }
        if self.fetches_enough || !self.in_line.is_empty() {
            self.set_stage(index, Stage::AwaitTurn { len, then });
            self.in_line.push_back(index);
            return Step::Later;
        }
        self.fetch(cx, index, len, then)
    }

    /// Has a command's data fetched, as soon as there is memory for them.
    fn fetch(&mut self, cx: &Cx<'_>, index: usize, len: u32, then: Then) -> Step {
        match self.landing_of(cx.pool, len) {
            Some(buf) => {
                self.set_stage(index, Stage::Receiving { landing: Landing::Pool(buf), then });
                Step::Receive { index, len }
            }
            None => {
                self.set_stage(index, Stage::AwaitMemory { len, then });
                self.starved.push_back(index);
                Step::Later
            }
        }
    }

    /// Memory to receive a new command's data into. Nobody overtakes a command that waits for it.
    fn landing_of(&self, pool: &Pool, len: u32) -> Option<PoolBuf> {
        if self.starved.is_empty() { landing_of(pool, len) } else { None }
    }

    pub(super) fn use_data(&mut self, cx: &mut Cx<'_>, index: usize, landing: Landing, then: Then) -> Step {
        match (then, landing) {
            (Then::Connect, landing) => self.connect(cx, index, landing.as_slice()),
            (Then::Admin, landing) => self.admin(cx, index, landing.as_slice()),
            (then @ Then::Io(_), Landing::Pool(buf)) => self.submit(cx, index, then, buf),
            (then @ Then::Io(_), Landing::Heap(bytes)) => {
                if self.starved.is_empty()
                    && let Some(mut buf) = cx.pool.alloc(bytes.len())
                {
                    unspill(&mut buf, &bytes);
                    return self.submit(cx, index, then, buf);
                }
                self.spill(index, bytes, then)
            }
        }
    }

    /// Keeps data that came when the pool was empty until it has room for them.
    pub(super) fn spill(&mut self, index: usize, bytes: Vec<u8>, then: Then) -> Step {
        self.set_stage(index, Stage::Spilled { bytes, then });
        self.starved.push_back(index);
        Step::Later
    }
}

/// Moves to the pool what was received when it was empty: it was copied to the heap, and now again.
fn unspill(buf: &mut PoolBuf, bytes: &[u8]) {
    buf.count_copied(bytes.len());
    buf.copy_in(0, bytes);
}

/// Memory to receive data into: a flood of long ones is not to take all that there is.
fn landing_of(pool: &Pool, len: u32) -> Option<PoolBuf> {
    if len > PATIENT { pool.alloc_patient(len as usize) } else { pool.alloc(len as usize) }
}
