//! The log, on standard error.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, settings::LogSettings};

/// Name of the environment variable that replaces `log.level`.
pub const LOG_VARIABLE: &str = "KVOF_LOG";

/// The filter of the log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{LOG_VARIABLE} or log.level {filter:?}: {reason}; use error, warn, info, debug, trace or directives")]
pub struct LogError {
    filter: String,
    reason: String,
}

/// Starts the log of this process. [`LOG_VARIABLE`] comes before the settings.
pub fn start(settings: &LogSettings) -> Result<(), LogError> {
    let filter = std::env::var(LOG_VARIABLE).unwrap_or_else(|_| settings.level.clone());
    let error = |reason: String| LogError { filter: filter.clone(), reason };
    let parsed = EnvFilter::builder().parse(&filter).map_err(|e| error(e.to_string()))?;
    let log = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Human => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            log.with_ansi(colours).with_target(false).try_init()
        }
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| error(e.to_string()))
}
