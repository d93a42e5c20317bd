//! Streams between a client and a container: logs and exec.
//!
//! The API knows clients and their protocols; whoever holds the nodes' sessions implements
//! [`NodeStreams`] and knows how to reach a node.

mod exec;
mod log;
mod revoke;
mod upgraded;

use std::future::Future;
use std::pin::Pin;

use async_channel::{Receiver, Sender};
use futures_lite::AsyncRead;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The text of a log as a client sees it: whole lines, already filtered, with timestamps when they
/// were asked for. End of file ends the answer.
pub type LogReader = Pin<Box<dyn AsyncRead + Send>>;

/// Which container of which pod; `uid` guards against a pod that was replaced under the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerRef {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
}

/// What of a container's log is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogRequest {
    pub container: ContainerRef,
    /// Stay and send what is written from now on, until the container ends.
    pub follow: bool,
    /// The instance before the current one.
    pub previous: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// Only lines written at or after this instant, in milliseconds since the Unix epoch.
    pub since: Option<i64>,
    /// Each line starts with its time in RFC 3339 with nanoseconds.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// A command to run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    pub container: ContainerRef,
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// From the client to the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecInput {
    Stdin(Vec<u8>),
    /// End of the standard input.
    CloseStdin,
    Resize {
        width: u16,
        height: u16,
    },
}

/// From the command to the client. `Exit` and `Failed` are the last of their stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecOutput {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// 0, or the exit code; 128 + signal when a signal ended it.
    Exit(i32),
    /// The command could not be run or the node was lost, with the reason for a person.
    Failed(String),
}

/// A running command. Dropping both ends it. The channels are bounded by whoever makes them: a slow
/// client holds up the command, never memory.
pub struct ExecStream {
    pub input: Sender<ExecInput>,
    pub output: Receiver<ExecOutput>,
}

/// Why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The node has no session with this server.
    NodeAway { node: String },
    /// The node has no such pod, container or previous instance; the text says which.
    NotFound(String),
    /// The node refused: the container does not run yet, or the request makes no sense there.
    Refused(String),
    /// The session broke while asking.
    Lost(String),
}

/// What revoking a node came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    Now,
    /// It was revoked already, and nobody has joined under its name since.
    Before,
}

/// Why a node was not revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeError {
    NoSuchNode,
    /// There is a Node object and no key.
    NeverJoined,
    /// The store could not write; the text is for a person.
    Store(String),
}

/// Reaches nodes through their sessions: opens streams to containers, and shuts nodes out.
pub trait NodeStreams: Send + Sync + 'static {
    fn open_logs<'a>(&'a self, node: &'a str, request: LogRequest) -> BoxFuture<'a, Result<LogReader, StreamError>>;

    fn open_exec<'a>(&'a self, node: &'a str, request: ExecRequest) -> BoxFuture<'a, Result<ExecStream, StreamError>>;

    /// Refuses the node's key for ever and ends its session, durably when it returns.
    fn revoke<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<Revoked, RevokeError>>;
}
