//! The kinds of value that options take: sizes, durations, cores, hosts, storage.
//!
//! Each reads from TOML and prints back as TOML that reads as the same value. [`OptionValue::VALUES`] says in one line
//! what is allowed; error messages and the reference quote it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use kvof_store::{format::NamespaceMode, volume::Durability};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};
use toml::Spanned;

use crate::model::TransportKind;

/// A value that an option can have.
pub(super) trait OptionValue {
    /// What is allowed, in one line without a full stop.
    const VALUES: &'static str;

    /// The value as TOML.
    fn to_toml(&self) -> String;
}

/// A number of bytes: an integer, or text such as `64MiB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Size(
    /// Bytes.
    pub u64,
);

/// A length of time, such as `500ms`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Span(
    /// The time.
    pub Duration,
);

/// On which processors the target runs, one thread on each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cores {
    /// On every processor that this process may use.
    #[default]
    All,
    /// On the first so many of them.
    Count(usize),
    /// On these, by the system's numbers.
    List(Vec<usize>),
}

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Transport of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Transport(pub(super) TransportKind);

/// Command set of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Key Value.
    Kv,
    /// NVM: blocks.
    Nvm,
}

/// Hosts that may use a subsystem.
#[derive(Clone, Debug)]
pub(super) enum Hosts {
    /// Every host.
    Any,
    /// Those with these NQNs.
    List(Vec<Spanned<String>>),
}

/// Where the data of a namespace lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Storage {
    Memory,
    /// The pool of this name.
    Pool(String),
    Path(PathBuf),
}

/// A list of files and block devices.
#[derive(Clone, Debug)]
pub(super) struct Devices(pub(super) Vec<Spanned<String>>);

/// What a KV namespace does when its pool is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mode(pub(super) NamespaceMode);

/// What an acknowledged Store survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Class(pub(super) Durability);

/// Why a text is no size or no duration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{given}` is not {wanted}")]
pub struct ValueError {
    given: String,
    wanted: &'static str,
}

const SIZE_UNITS: [(&str, u64); 6] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];

const SPAN_UNITS: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("min", 60_000_000), ("us", 1), ("ms", 1_000), ("s", 1_000_000)];

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError { given: text.to_owned(), wanted: Self::VALUES };
        let (number, unit) = split_number(text);
        let (_, scale) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = SIZE_UNITS.into_iter().find(|(_, scale)| self.0 != 0 && self.0.is_multiple_of(*scale));
        match fitting {
            Some((name, scale)) => write!(f, "{}{name}", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError { given: text.to_owned(), wanted: Self::VALUES };
        let (number, unit) = split_number(text);
        let (_, scale) = SPAN_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
        let micros = number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(error)?;
        Ok(Self(Duration::from_micros(micros)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        match micros {
            0 => write!(f, "0s"),
            _ if micros.is_multiple_of(1_000_000) => write!(f, "{}s", micros / 1_000_000),
            _ if micros.is_multiple_of(1_000) => write!(f, "{}ms", micros / 1_000),
            _ => write!(f, "{micros}us"),
        }
    }
}

/// Leading digits, and what follows them without blanks around it.
fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

impl OptionValue for Size {
    const VALUES: &'static str = "a size: bytes as a number, or text with B, KiB, MiB, GiB or TiB, such as \"64MiB\"";

    fn to_toml(&self) -> String {
        format!("\"{self}\"")
    }
}

impl OptionValue for Span {
    const VALUES: &'static str = "a duration: text with us, ms, s, min or h, such as \"500ms\"";

    fn to_toml(&self) -> String {
        format!("\"{self}\"")
    }
}

impl OptionValue for Cores {
    const VALUES: &'static str = "\"all\", a number of cores from 1, or a list of processor numbers such as [0, 2]";

    fn to_toml(&self) -> String {
        match self {
            Self::All => "\"all\"".to_owned(),
            Self::Count(n) => n.to_string(),
            Self::List(list) => format!("{list:?}"),
        }
    }
}

impl OptionValue for LogFormat {
    const VALUES: &'static str = "\"human\" or \"json\"";

    fn to_toml(&self) -> String {
        match self {
            Self::Human => "\"human\"",
            Self::Json => "\"json\"",
        }
        .to_owned()
    }
}

impl OptionValue for Transport {
    const VALUES: &'static str = "\"tcp\" or \"rdma\"";

    fn to_toml(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl OptionValue for Kind {
    const VALUES: &'static str = "\"kv\" or \"nvm\"";

    fn to_toml(&self) -> String {
        match self {
            Self::Kv => "\"kv\"",
            Self::Nvm => "\"nvm\"",
        }
        .to_owned()
    }
}

impl OptionValue for Hosts {
    const VALUES: &'static str = "\"any\", or a list of host NQNs";

    fn to_toml(&self) -> String {
        match self {
            Self::Any => "\"any\"".to_owned(),
            Self::List(hosts) => {
                let hosts: Vec<String> = hosts.iter().map(|h| quote(h.get_ref())).collect();
                format!("[{}]", hosts.join(", "))
            }
        }
    }
}

impl OptionValue for Storage {
    const VALUES: &'static str =
        "\"memory\", \"pool:NAME\", or the path of a file or block device, with \"file:\" before it or without";

    fn to_toml(&self) -> String {
        match self {
            Self::Memory => "\"memory\"".to_owned(),
            Self::Pool(name) => quote(&format!("pool:{name}")),
            Self::Path(path) => quote(&format!("file:{}", path.display())),
        }
    }
}

impl OptionValue for Devices {
    const VALUES: &'static str = "a list of paths of block devices or files";

    fn to_toml(&self) -> String {
        let paths: Vec<String> = self.0.iter().map(|path| quote(path.get_ref())).collect();
        format!("[{}]", paths.join(", "))
    }
}

impl OptionValue for Mode {
    const VALUES: &'static str = "\"store\" or \"cache\"";

    fn to_toml(&self) -> String {
        match self.0 {
            NamespaceMode::Store => "\"store\"",
            NamespaceMode::Cache => "\"cache\"",
        }
        .to_owned()
    }
}

impl OptionValue for Class {
    const VALUES: &'static str = "\"media\" or \"device\"";

    fn to_toml(&self) -> String {
        match self.0 {
            Durability::Media => "\"media\"",
            Durability::Device => "\"device\"",
        }
        .to_owned()
    }
}

impl OptionValue for String {
    const VALUES: &'static str = "text";

    fn to_toml(&self) -> String {
        quote(self)
    }
}

impl OptionValue for u32 {
    const VALUES: &'static str = "a whole number";

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

impl OptionValue for bool {
    const VALUES: &'static str = "true or false";

    fn to_toml(&self) -> String {
        self.to_string()
    }
}

/// `text` as a TOML string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Visits what one of the value types may be written as.
struct Written<T>(std::marker::PhantomData<T>);

/// A value type that is written as text, an integer or a list.
trait FromWritten: OptionValue + Sized {
    fn from_text(text: &str) -> Option<Self>;

    fn from_number(_number: u64) -> Option<Self> {
        None
    }

    /// Reads a list; types that have no list form refuse it.
    fn from_list<'de, A: SeqAccess<'de>>(_list: A) -> Result<Option<Self>, A::Error> {
        Ok(None)
    }
}

impl<'de, T: FromWritten> Visitor<'de> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::VALUES)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        u64::try_from(number)
            .ok()
            .and_then(T::from_number)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        T::from_number(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::from_list(list)?.ok_or_else(|| de::Error::invalid_value(de::Unexpected::Seq, &self))
    }
}

impl FromWritten for Size {
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn from_number(number: u64) -> Option<Self> {
        Some(Self(number))
    }
}

impl FromWritten for Span {
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromWritten for Cores {
    fn from_text(text: &str) -> Option<Self> {
        (text == "all").then_some(Self::All)
    }

    fn from_number(number: u64) -> Option<Self> {
        usize::try_from(number).ok().filter(|&n| n > 0).map(Self::Count)
    }

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut cores = Vec::new();
        while let Some(core) = list.next_element()? {
            cores.push(core);
        }
        Ok((!cores.is_empty()).then_some(Self::List(cores)))
    }
}

impl FromStr for Cores {
    type Err = ValueError;

    /// Reads the form of the command line: `all`, `4`, or `0,2,3` (`2,` for processor 2 alone).
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let error = || ValueError {
            given: text.to_owned(),
            wanted: "`all`, a number of cores from 1, or a list such as 0,2,3",
        };
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(count) = text.parse().ok().filter(|&n: &usize| n > 0) {
            return Ok(Self::Count(count));
        }
        let list: Result<Vec<usize>, _> = text.trim_end_matches(',').split(',').map(str::parse).collect();
        match list {
            Ok(list) if text.contains(',') => Ok(Self::List(list)),
            _ => Err(error()),
        }
    }
}

impl FromWritten for LogFormat {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "human" => Some(Self::Human),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

impl FromWritten for Transport {
    fn from_text(text: &str) -> Option<Self> {
        [TransportKind::Tcp, TransportKind::Rdma].into_iter().find(|kind| kind.name() == text).map(Self)
    }
}

impl FromWritten for Kind {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "kv" => Some(Self::Kv),
            "nvm" => Some(Self::Nvm),
            _ => None,
        }
    }
}

impl FromWritten for Hosts {
    fn from_text(text: &str) -> Option<Self> {
        (text == "any").then_some(Self::Any)
    }

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut hosts = Vec::new();
        while let Some(host) = list.next_element()? {
            hosts.push(host);
        }
        Ok(Some(Self::List(hosts)))
    }
}

impl FromWritten for Storage {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "memory" => Some(Self::Memory),
            text => match (text.strip_prefix("pool:"), text.strip_prefix("file:").unwrap_or(text)) {
                (Some(name), _) => Some(Self::Pool(name.to_owned())),
                (None, "") => None,
                (None, path) => Some(Self::Path(path.into())),
            },
        }
    }
}

impl FromWritten for Devices {
    fn from_text(_text: &str) -> Option<Self> {
        None
    }

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut paths = Vec::new();
        while let Some(path) = list.next_element()? {
            paths.push(path);
        }
        Ok((!paths.is_empty()).then_some(Self(paths)))
    }
}

impl FromWritten for Mode {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "store" => Some(Self(NamespaceMode::Store)),
            "cache" => Some(Self(NamespaceMode::Cache)),
            _ => None,
        }
    }
}

impl FromWritten for Class {
    fn from_text(text: &str) -> Option<Self> {
        match text {
            "media" => Some(Self(Durability::Media)),
            "device" => Some(Self(Durability::Device)),
            _ => None,
        }
    }
}

macro_rules! deserialize {
    ($($type:ty),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Written(std::marker::PhantomData))
            }
        }
    )*};
}

deserialize!(Size, Span, Cores, LogFormat, Transport, Kind, Hosts, Storage, Devices, Mode, Class);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_take_binary_units_only() {
        assert_eq!("64MiB".parse(), Ok(Size(64 << 20)));
        assert_eq!("1 GiB".parse(), Ok(Size(1 << 30)));
        assert_eq!("512".parse(), Ok(Size(512)));
        assert_eq!("0B".parse(), Ok(Size(0)));
        for wrong in ["", "MiB", "64MB", "64m", "-1KiB", "1.5GiB", "99999999TiB", "1 GiB B"] {
            let error = wrong.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains("such as \"64MiB\""), "{wrong}: {error}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!("500ms".parse(), Ok(Span(Duration::from_millis(500))));
        assert_eq!("2min".parse(), Ok(Span(Duration::from_secs(120))));
        assert_eq!("50us".parse(), Ok(Span(Duration::from_micros(50))));
        for wrong in ["", "5", "s", "5 sec", "-5s", "999999999999999h"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn cores_of_the_command_line() {
        assert_eq!("all".parse(), Ok(Cores::All));
        assert_eq!("4".parse(), Ok(Cores::Count(4)));
        assert_eq!("0,2".parse(), Ok(Cores::List(vec![0, 2])));
        assert_eq!("2,".parse(), Ok(Cores::List(vec![2])));
        for wrong in ["", "0", "a", ",", "1,,2", "-1"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn printed_sizes_and_durations_read_back(bytes: u64, micros in 0..u64::MAX / 1000) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
            let span = Span(Duration::from_micros(micros));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn quoted_text_reads_back(text: String) {
            let table: toml::Table = toml::from_str(&format!("a = {}", quote(&text))).unwrap();
            prop_assert_eq!(table["a"].as_str(), Some(text.as_str()));
        }
    }
}
