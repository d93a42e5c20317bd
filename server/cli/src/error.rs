//! What can go wrong, and with which exit code.

use std::fmt;
use std::process::ExitCode;

use serde_json::Value;

#[derive(Debug)]
pub enum Error {
    /// The command line or a file given on it is wrong.
    Usage(String),
    /// The server (or agent) can not be reached or does not speak as expected.
    Unreachable(String),
    /// The server answered with a `v1.Status` (or its equivalent) that says no.
    Refused { code: u16, reason: String, message: String },
    /// Several things were asked for and this many failed; each was reported as it happened.
    Partly(usize),
    /// What `status` found.
    Troubles(usize),
    /// The reader of our output went away.
    Closed,
}

impl Error {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Error::Refused { .. } | Error::Partly(_) | Error::Troubles(_) => 1,
            Error::Usage(_) => 2,
            Error::Unreachable(_) => 3,
            Error::Closed => 141,
        })
    }

    pub fn status(code: u16, body: &Value) -> Error {
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let message = match text("message") {
            message if message.is_empty() => format!("the server answered {code} without a reason"),
            message => message,
        };
        Error::Refused { code, reason: text("reason"), message }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused { code: 404, .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text) | Error::Unreachable(text) => f.write_str(text),
            Error::Refused { reason, message, .. } if reason.is_empty() => f.write_str(message),
            Error::Refused { reason, message, .. } => write!(f, "from server ({reason}): {message}"),
            Error::Partly(failed) => write!(f, "{failed} of the objects failed"),
            Error::Troubles(1) => f.write_str("one thing is wrong"),
            Error::Troubles(troubles) => write!(f, "{troubles} things are wrong"),
            Error::Closed => f.write_str("the output was closed"),
        }
    }
}
