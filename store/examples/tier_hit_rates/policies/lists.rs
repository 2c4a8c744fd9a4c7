//! Lists of numbered values, with the bytes in each.

pub(crate) const NONE: u8 = u8::MAX;
const NIL: u32 = u32::MAX;

pub(crate) struct Lists {
    pub(crate) sizes: Vec<u32>,
    links: Vec<(u32, u32)>,
    list: Vec<u8>,
    ends: Vec<(u32, u32)>,
    bytes: Vec<u64>,
}

impl Lists {
    pub(crate) fn new(sizes: &[u32], lists: usize) -> Self {
        Self {
            sizes: sizes.to_vec(),
            links: vec![(NIL, NIL); sizes.len()],
            list: vec![NONE; sizes.len()],
            ends: vec![(NIL, NIL); lists],
            bytes: vec![0; lists],
        }
    }

    pub(crate) fn size(&self, id: u32) -> u64 {
        u64::from(self.sizes[id as usize])
    }

    /// The list that a value is in, or [`NONE`].
    pub(crate) fn of(&self, id: u32) -> u8 {
        self.list[id as usize]
    }

    pub(crate) fn bytes(&self, list: u8) -> u64 {
        self.bytes[list as usize]
    }

    pub(crate) fn oldest(&self, list: u8) -> Option<u32> {
        Some(self.ends[list as usize].1).filter(|id| *id != NIL)
    }

    /// The next newer one in the same list.
    pub(crate) fn newer(&self, id: u32) -> Option<u32> {
        Some(self.links[id as usize].0).filter(|id| *id != NIL)
    }

    /// Makes a value the newest of a list, wherever it was.
    pub(crate) fn push(&mut self, id: u32, list: u8) {
        self.take(id);
        let newest = self.ends[list as usize].0;
        self.links[id as usize] = (NIL, newest);
        if newest == NIL {
            self.ends[list as usize].1 = id;
        } else {
            self.links[newest as usize].0 = id;
        }
        self.ends[list as usize].0 = id;
        self.list[id as usize] = list;
        self.bytes[list as usize] += self.size(id);
    }

    pub(crate) fn take(&mut self, id: u32) {
        let list = std::mem::replace(&mut self.list[id as usize], NONE);
        if list == NONE {
            return;
        }
        let (newer, older) = self.links[id as usize];
        match newer {
            NIL => self.ends[list as usize].0 = older,
            _ => self.links[newer as usize].1 = older,
        }
        match older {
            NIL => self.ends[list as usize].1 = newer,
            _ => self.links[older as usize].0 = newer,
        }
        self.bytes[list as usize] -= self.size(id);
    }
}
