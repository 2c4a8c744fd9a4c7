//! Errors as exit codes that scripts can rely on.

use std::{fmt, io, process::ExitCode};

use kvof_initiator::{Error, Status};

/// Exit codes of the command. Their values are part of its interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Done as asked.
    Success = 0,
    /// The command was refused or failed.
    Failed = 1,
    /// The command line cannot be used, or does not say enough.
    Usage = 2,
    /// A key does not exist.
    KeyMissing = 3,
    /// The key exists already.
    KeyExists = 4,
    /// No connection, a lost one, or no answer in time.
    Connection = 5,
    /// Conformance or verification failed.
    Check = 6,
    /// A pool is damaged, and nothing is lost.
    Damaged = 7,
    /// Ended by SIGINT or SIGTERM.
    Interrupted = 130,
}

/// What the codes mean, for `--help`.
pub(crate) const EXIT_HELP: &str = "\
Exit codes:
  0    done
  1    the command was refused or failed
  2    the command line cannot be used, or does not say enough
  3    a key does not exist
  4    the key exists already
  5    cannot connect, connection lost, or no answer in time
  6    conformance or verification failed; of a pool: values are lost
  7    a pool is damaged or not complete, but nothing is lost
  130  interrupted";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows its exit code.
#[derive(Debug)]
pub(crate) struct Coded {
    exit: Exit,
    message: String,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// The error `message` with the code `exit`.
pub(crate) fn coded(exit: Exit, message: impl fmt::Display) -> anyhow::Error {
    Coded { exit, message: message.to_string() }.into()
}

/// The error `message` about the command line.
pub(crate) fn usage(message: impl fmt::Display) -> anyhow::Error {
    coded(Exit::Usage, message)
}

/// An error of connecting: whatever the controller says then, there is no connection.
pub(crate) fn connecting(error: &Error) -> anyhow::Error {
    let exit = match error {
        Error::Argument { .. } | Error::Address { .. } => Exit::Usage,
        Error::System { .. } => Exit::Failed,
        _ => Exit::Connection,
    };
    coded(exit, error)
}

/// The exit code for an error of the host library after the connection was made.
pub(crate) fn exit_of_operation(error: &Error) -> Exit {
    match error {
        Error::Status { status, .. } => exit_of_status(*status),
        Error::Address { .. } => Exit::Usage,
        Error::Connect { .. }
        | Error::ConnectionLost { .. }
        | Error::GaveUp { .. }
        | Error::Timeout { .. }
        | Error::Closed => Exit::Connection,
        _ => Exit::Failed,
    }
}

/// The exit code for the status of a KV command that did not succeed.
pub(crate) fn exit_of_status(status: Status) -> Exit {
    match status.code() {
        Status::KEY_DOES_NOT_EXIST => Exit::KeyMissing,
        Status::KEY_EXISTS => Exit::KeyExists,
        _ => Exit::Failed,
    }
}

/// The exit code for any error.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(coded) = error.chain().find_map(|e| e.downcast_ref::<Coded>()) {
        return coded.exit;
    }
    error.chain().find_map(|e| e.downcast_ref::<Error>()).map_or(Exit::Failed, exit_of_operation)
}

/// Whether standard output was closed by its reader.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn codes_survive_context() {
        assert_eq!(exit_of_status(Status::KEY_DOES_NOT_EXIST.with_dnr()), Exit::KeyMissing);
        assert_eq!(exit_of_status(Status::KEY_EXISTS), Exit::KeyExists);
        assert_eq!(exit_of_status(Status::CAPACITY_EXCEEDED), Exit::Failed);
        assert_eq!(exit_of(&anyhow::Error::from(Error::Closed).context("cannot store")), Exit::Connection);
        assert_eq!(exit_of(&usage("what?").context("outer")), Exit::Usage);
        let unsupported = Error::Unsupported { address: "a".into(), what: "it".into() };
        assert_eq!(exit_of(&connecting(&unsupported)), Exit::Connection);
        assert_eq!(exit_of(&unsupported.into()), Exit::Failed);
        let io = Err::<(), _>(io::Error::from(io::ErrorKind::BrokenPipe)).context("cannot write").unwrap_err();
        assert!(is_broken_pipe(&io));
        assert_eq!(exit_of(&io), Exit::Failed);
    }
}
