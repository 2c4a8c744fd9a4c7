//! Configuration: from a TOML file or the flags for trying things out to [`Settings`] and [`TargetDef`].
//!
//! `tables` lists every option; `value` knows the forms of values; `check` and `namespace` hold the rules;
//! `reference` prints the list for people. A configuration is either right as a whole or refused with every problem
//! named: nothing later has to doubt a value.

mod address;
mod check;
mod error;
mod ids;
mod machine;
mod namespace;
mod pool;
mod print;
mod quick;
mod reference;
pub mod settings;
mod tables;
mod value;

#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::Spanned;

pub use address::AddressError;
pub use error::{ConfigError, Place, Problem};
pub use quick::{Quick, QuickNamespace};
pub use reference::{reference, sample};
pub use settings::Settings;
pub use value::{Cores, Kind, LogFormat, Size, Span, ValueError};

use crate::model::TargetDef;
use error::Source;
use machine::Machine;
use tables::{File, PortTable};

/// A configuration without faults.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the target runs.
    pub settings: Settings,
    /// What it serves.
    pub target: TargetDef,
}

/// What the command line changes in a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// Instead of all `[[port]]`s: their addresses.
    pub listen: Vec<String>,
    /// Instead of `reactor.cores`.
    pub cores: Option<Cores>,
    /// Instead of `log.level`.
    pub log_level: Option<String>,
    /// Instead of `log.format`.
    pub log_format: Option<LogFormat>,
}

impl Config {
    /// Reads and checks the file at `path`; `overrides` come on top of it.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        Self::parse(&text, &path.display().to_string(), &folder, overrides)
    }

    /// Reads and checks `text`, which messages call `name`; relative paths in it start at `folder`.
    pub fn parse(text: &str, name: &str, folder: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let source = Source { file: name, text };
        let mut file: File =
            toml::from_str(text).map_err(|error| ConfigError::Problems(vec![source.reader_problem(&error)]))?;
        overrides.apply(&mut file);
        let machine = Machine::here();
        let world = check::World { machine: &machine, folder, resolve: &address::system_lookup };
        check::check(&file, source, world).map_err(ConfigError::Problems)
    }

    /// The configuration that the flags for trying things out stand for.
    pub fn quick(quick: &Quick, overrides: &Overrides) -> Result<Self, ConfigError> {
        let machine = Machine::here();
        let mut file = quick.file(&machine)?;
        overrides.apply(&mut file);
        let world = check::World { machine: &machine, folder: Path::new(""), resolve: &address::system_lookup };
        check::check(&file, Source { file: "", text: "" }, world).map_err(ConfigError::Problems)
    }

    /// The configuration in effect, as TOML that reads as the same configuration.
    #[must_use]
    pub fn to_toml(&self) -> String {
        print::to_toml(self)
    }

    /// What is served where, in some lines for people.
    #[must_use]
    pub fn summary(&self) -> String {
        print::summary(self)
    }
}

impl Overrides {
    fn apply(&self, file: &mut File) {
        if !self.listen.is_empty() {
            file.port = self.listen.iter().map(|address| given(PortTable::at(address))).collect();
        }
        if let Some(cores) = &self.cores {
            file.reactor.cores = Some(given(cores.clone()));
        }
        if let Some(level) = &self.log_level {
            file.log.level = Some(given(level.clone()));
        }
        if let Some(format) = self.log_format {
            file.log.format = Some(given(format));
        }
    }
}

impl PortTable {
    fn at(address: &str) -> Self {
        Self { address: Some(given(address.to_owned())), ..Self::default() }
    }
}

/// A value that is not in a file.
fn given<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
