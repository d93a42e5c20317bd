//! What can go wrong in this room.

use std::fmt;
use std::io;
use std::path::Path;

use super::ContainerId;

/// Why the runtime could not do what was asked.
#[derive(Debug)]
pub enum Error {
    /// A call to the kernel or the file system: what was tried, on what.
    Io {
        what: String,
        source: io::Error,
    },
    /// The container's own start failed, told by its pause process: bad command, mount, user …
    /// Kubernetes' `RunContainerError`; `stage` is `exec`, `mount` and the like.
    Start {
        stage: String,
        what: String,
        source: io::Error,
    },
    /// The spec asks for what cannot be.
    Invalid(String),
    /// The sandbox's pause process is gone.
    Dead,
    NotFound(ContainerId),
    /// The pause process answered what it should not.
    Protocol(String),
}

impl Error {
    /// `make /run/x: Permission denied`.
    pub(super) fn on<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::Io { what: format!("{what} {}", path.display()), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { what, source } => write!(f, "cannot {what}: {source}"),
            Error::Start { stage, what, source } => write!(f, "container start failed at {stage} ({what}): {source}"),
            Error::Invalid(what) => f.write_str(what),
            Error::Dead => f.write_str("the pod's pause process is gone"),
            Error::NotFound(id) => write!(f, "no container {id}"),
            Error::Protocol(what) => write!(f, "the pause process speaks nonsense: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } | Error::Start { source, .. } => Some(source),
            _ => None,
        }
    }
}
