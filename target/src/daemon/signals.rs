//! Signals as messages.

use std::{io, sync::mpsc, thread};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// What the user or the service manager wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// Read the configuration again.
    Reload,
    /// Complete what runs, then end. Asked a second time, the process ends at once with exit code 1.
    Stop,
}

/// Starts to listen: SIGHUP reloads, SIGTERM and SIGINT stop.
pub(super) fn listen() -> io::Result<mpsc::Receiver<Request>> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().name("kvof-signals".to_owned()).spawn(move || {
        let mut stops = 0;
        for signal in signals.forever() {
            let request = if signal == SIGHUP { Request::Reload } else { Request::Stop };
            if request == Request::Stop {
                stops += 1;
            }
            // Without a receiver the daemon is past the point where it listens.
            if (stops > 1 || sender.send(request).is_err()) && request == Request::Stop {
                tracing::warn!("stopped at once, on a second signal");
                std::process::exit(1);
            }
        }
    })?;
    Ok(receiver)
}
