//! The daemon: from a configuration to a running target, and through its signals to its end.
//!
//! Order at start: sockets are bound first, so that a second target on the same port fails before it touches any
//! storage; then pools and other storage are opened; then hosts are let in; then the service manager and the ready file are
//! told. At the end: running commands complete, the cores' volumes come to rest, and the pools are closed.

mod files;
mod listen;
mod logging;
mod notify;
mod pools;
mod ready;
mod serve;
mod signals;

use std::{
    fmt,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

pub use listen::ListenError;
pub use logging::{LOG_VARIABLE, LogError, start as start_log};
pub use serve::{ReloadError, ServeError};

use crate::{
    config::{Config, ConfigError, Settings},
    model::PortDef,
};
use notify::ServiceManager;
use ready::ReadyFile;
use serve::Serving;
use signals::Request;

/// How often the daemon looks after its threads when nothing happens.
const LOOK_AFTER: Duration = Duration::from_millis(500);

/// Reads the configuration again.
pub type Reread = Box<dyn Fn() -> Result<Config, ConfigError>>;

/// What [`run`] needs.
pub struct Daemon {
    /// The configuration to start with.
    pub config: Config,
    /// What SIGHUP does; `None` where there is no file to read.
    pub reread: Option<Reread>,
    /// Where to write the bound addresses as JSON once connections are accepted; removed at the end.
    pub ready_file: Option<PathBuf>,
    /// Called with the ports as they are bound, once connections are accepted.
    pub announce: fn(&Config),
}

/// Why a target could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(#[source] std::io::Error),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Storage, subsystems or threads.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The ready file cannot be written.
    #[error("cannot write the ready file {}: {source}", path.display())]
    Ready {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A core's thread ended.
    #[error("a core failed; the log says why")]
    CoreFailed,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon")
            .field("config", &self.config)
            .field("ready_file", &self.ready_file)
            .finish_non_exhaustive()
    }
}

/// Runs a target until a signal ends it.
pub fn run(daemon: Daemon) -> Result<(), DaemonError> {
    let Daemon { mut config, reread, ready_file, announce } = daemon;
    let requests = signals::listen().map_err(DaemonError::Signals)?;
    let manager = ServiceManager::from_environment();
    let settings = config.settings.clone();
    let namespaces: usize = config.target.subsystems.iter().map(|subsystem| subsystem.namespaces.len()).sum();
    let devices: usize = config.target.pools.iter().map(|pool| pool.devices.len()).sum();
    files::raise_limit(settings.limits.connections, settings.cpus.len(), namespaces.saturating_add(devices));

    let configured = config.target.ports.clone();
    let listeners = listen::bind_all(&mut config.target.ports)?;
    let bound = config.target.ports.clone();
    let mut serving = Serving::start(&settings, config.target.clone(), listeners, &manager)?;
    let ready_file = ready_file
        .map(|path| ReadyFile::write(&path, &bound).map_err(|source| DaemonError::Ready { path, source }))
        .transpose()?;
    announce(&config);
    for port in &bound {
        tracing::info!(address = %port.url(), portid = port.portid, "listening");
    }
    manager.ready();

    let reload = |serving: &mut Serving| match &reread {
        None => tracing::warn!("SIGHUP: there is no configuration file to read again"),
        Some(reread) => {
            manager.reloading(monotonic_micros());
            reload(serving, &settings, (&configured, &bound), (reread, &manager));
            manager.ready();
        }
    };
    let outcome = attend(&requests, &mut serving, reload);
    drop(ready_file);
    manager.stopping();
    tracing::info!(connections = serving.connections(), drain = ?settings.drain_timeout, "stopping");
    serving.stop(settings.drain_timeout, &manager);
    tracing::info!("stopped");
    outcome
}

/// Attends to requests until one is to stop, or a core fails.
fn attend(
    requests: &Receiver<Request>,
    serving: &mut Serving,
    reload: impl Fn(&mut Serving),
) -> Result<(), DaemonError> {
    loop {
        let request = requests.recv_timeout(LOOK_AFTER);
        serving.tend();
        match request {
            Ok(Request::Reload) => reload(serving),
            Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) if serving.is_healthy() => {}
            Err(RecvTimeoutError::Timeout) => return Err(DaemonError::CoreFailed),
        }
    }
}

/// Reads the configuration again and puts into effect what can change live; says what cannot.
fn reload(
    serving: &mut Serving,
    running: &Settings,
    ports: (&[PortDef], &[PortDef]),
    (reread, manager): (&Reread, &ServiceManager),
) {
    let Config { settings, mut target } = match reread() {
        Ok(config) => config,
        Err(error) => return tracing::error!("the configuration was not reloaded:\n{error}"),
    };
    for key in running.differences(&settings) {
        tracing::warn!(key, "this change takes effect at the next start");
    }
    let (configured, bound) = ports;
    target.ports = listen::still_bound(&target.ports, configured, bound);
    match serving.reload(target, manager) {
        Ok(changes) => tracing::info!(
            namespaces_added = changes.namespaces_added,
            namespaces_removed = changes.namespaces_removed,
            controllers_closed = changes.controllers_closed,
            "configuration reloaded"
        ),
        Err(error) => tracing::error!(%error, "the configuration was not reloaded"),
    }
}

fn monotonic_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1000)
}
