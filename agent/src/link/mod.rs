//! The connection to the server: it comes up first and on its own, and no desired item can stop it.
//!
//! The link knows the ledger as [`Desired`], containers as [`Streams`], and takes reports through
//! [`Reporter`]; it depends on no other room.

mod clock;
mod dial;
mod join;
mod reporter;
mod run;
mod streams;

use std::future::Future;
use std::pin::Pin;

use async_channel::{Receiver, Sender};
use coracle_shared::desired::{ItemId, SetKind};
use coracle_shared::ids::Digest;
use coracle_shared::session::Apply;
use coracle_shared::wire::{ExecIn, ExecOpen, ExecOut, Heads, LogsOpen};
use futures_lite::AsyncRead;

pub use coracle_transport::Carrier;
pub use dial::DialError;
pub use join::{JoinError, Newcomer, join};
pub use reporter::Reporter;
pub use run::{Link, LinkState};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The ledger, as the link sees it: persist, then publish, then answer.
pub trait Desired: Send + Sync + 'static {
    /// The heads of both sets; a set that was never written has the default one. The digest is that
    /// of what is held (`coracle_shared::digest::of_set`), not of what was promised.
    fn heads(&self) -> Heads;

    /// The ids and hashes of a set, in id order.
    fn index(&self, set: SetKind) -> BoxFuture<'_, Result<Vec<(ItemId, Digest)>, String>>;

    /// Writes a change in one transaction and answers with the digest that the set has then, once it
    /// survives a power cut. The error says for a person what failed; nothing of the change holds then
    /// but, where space is the reason, its deletes.
    fn apply(&self, change: Apply) -> BoxFuture<'_, Result<Digest, String>>;
}

/// The text of a log: whole lines, already filtered. End of file ends the answer.
pub type LogReader = Pin<Box<dyn AsyncRead + Send>>;

/// A running command. Dropping both ends it; the channels are bounded by whoever makes them.
pub struct ExecStream {
    pub input: Sender<ExecIn>,
    pub output: Receiver<ExecOut>,
}

/// Why a stream to a container could not be opened; the text is for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No such pod, container or previous instance.
    NotFound(String),
    /// Not now, or not here.
    Refused(String),
}

/// The node's containers, as the link sees them.
pub trait Streams: Send + Sync + 'static {
    fn open_logs(&self, request: LogsOpen) -> BoxFuture<'_, Result<LogReader, OpenError>>;

    fn open_exec(&self, request: ExecOpen) -> BoxFuture<'_, Result<ExecStream, OpenError>>;
}
