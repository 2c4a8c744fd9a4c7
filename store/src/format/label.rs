//! The label: by which a device is recognised wherever it appears. Written once, when the device joins a pool.

use kvof_spec::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FormatError, MEMBERS_MAX, PAGE, Secret, Uuid, VERSION, is_whole, seal};
use crate::{ec::Profile, geometry::Geometry};

const WHAT: &str = "the label";
const MAGIC: [u8; 8] = *b"kvofPool";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    member: U16,
    members: U16,
    pool: Uuid,
    device: Uuid,
    replaces: Uuid,
    secret: [u8; 16],
    data: u8,
    parity: u8,
    shards: U16,
    segment_pages: U32,
    segments: U32,
    rsvd0: U32,
    created: U64,
    name: [u8; 64],
    rsvd: [u8; PAGE - 172],
    crc: U32,
}

const _: () = assert!(size_of::<Raw>() == PAGE);

/// What a device says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// The pool that it belongs to.
    pub pool: Uuid,
    /// The device itself.
    pub device: Uuid,
    /// The device whose place it takes; zero for one that was there from the start.
    pub replaces: Uuid,
    /// The pool's secret.
    pub secret: Secret,
    /// Its place in the pool, 0's based.
    pub member: u16,
    /// How the pool is laid out: the same on all its devices.
    pub geometry: Geometry,
    /// When it was formatted, seconds since 1970.
    pub created: u64,
    /// What the operator calls the pool, at most 64 bytes of UTF-8.
    pub name: String,
}

impl Label {
    /// The page that goes to the start and to the end of the device.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = Raw::new_zeroed();
        raw.magic = MAGIC;
        raw.version = VERSION.into();
        raw.member = self.member.into();
        raw.members = self.geometry.members().into();
        raw.pool = self.pool;
        raw.device = self.device;
        raw.replaces = self.replaces;
        raw.secret = self.secret.0;
        raw.data = self.geometry.profile().k();
        raw.parity = self.geometry.profile().m();
        raw.shards = self.geometry.shards().into();
        raw.segment_pages = self.geometry.segment_pages().into();
        raw.segments = self.geometry.segments().into();
        raw.created = self.created.into();
        for (to, from) in raw.name.iter_mut().zip(self.name.bytes()) {
            *to = from;
        }
        let mut page = raw.as_bytes().to_vec();
        seal(&mut page);
        page
    }

    /// Decodes a page.
    ///
    /// # Errors
    /// [`FormatError`]: nothing there, another version, or damaged.
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let absent = FormatError::Absent { what: WHAT };
        let (raw, _) = Raw::ref_from_prefix(page).map_err(|_| absent)?;
        if raw.magic != MAGIC {
            return Err(absent);
        }
        if raw.version.get() != VERSION {
            return Err(FormatError::Version { what: WHAT, version: raw.version.get() });
        }
        if !is_whole(raw.as_bytes()) {
            return Err(FormatError::Checksum { what: WHAT });
        }
        let field = |field, value: u64| FormatError::Field { what: WHAT, field, value };
        let profile = Profile::new(raw.data, raw.parity)
            .map_err(|_| field("the erasure profile", u64::from(raw.data) << 8 | u64::from(raw.parity)))?;
        let members = raw.members.get();
        let geometry = Geometry::new(profile, members, raw.shards.get(), raw.segment_pages.get(), raw.segments.get())
            .map_err(|_| field("the geometry", u64::from(raw.segments.get())))?;
        if raw.member.get() >= members || usize::from(members) > MEMBERS_MAX {
            return Err(field("the member number", u64::from(raw.member.get())));
        }
        let name = raw.name.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Self {
            pool: raw.pool,
            device: raw.device,
            replaces: raw.replaces,
            secret: Secret(raw.secret),
            member: raw.member.get(),
            geometry,
            created: raw.created.get(),
            name: String::from_utf8_lossy(name).into_owned(),
        })
    }
}
