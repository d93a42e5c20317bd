//! The node protocol as state machines without I/O, one for each end.
//!
//! Messages and time go in as arguments, outputs are polled. Both ends need one ordered stream
//! and nothing else, so tests drive them over links that exist only in memory.
//!
//! ```text
//! agent                                   server
//!   Hello{cluster, store, heads}   ─────▶
//!                                  ◀─────  Welcome | Refuse
//!   (equal digests: nothing more)
//!                                  ◀─────  SendIndex          when it can not tell what differs
//!   Index …                        ─────▶
//!                                  ◀─────  Begin, Items …, End
//!   Persisted | Rejected           ─────▶                     once the ledger has it
//!   Renew{csr}                     ─────▶                     at two thirds of a certificate's life
//!                                  ◀─────  Renewed
//!   Report                         ─────▶
//!                                  ◀─────  Reported           once the store has it
//! ```
//!
//! Under an expired certificate the answer to Hello is `RenewFirst`, and nothing but a renewal follows.
//!
//! Rules that hold at both ends: absence is a removal only in a whole set that the server marked
//! complete; otherwise what goes is named. An older generation is refused. The same generation
//! with another digest is sent whole. A foreign store is refused.

mod agent;
mod outbox;
mod server;
mod sets;

use std::fmt;

pub use agent::{AgentOutput, AgentSession, Apply};
pub use outbox::{MAX_EVENTS, Outbox};
pub use server::{ServerIdentity, ServerOutput, ServerSession, Standing};
pub use sets::{Compiled, DesiredSet, Difference, Since};

use crate::wire::Refuse;

/// Monotonic milliseconds from any fixed start: the only clock of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    pub fn after(self, millis: u64) -> Millis {
        Millis(self.0.saturating_add(millis))
    }
}

/// Items travel in messages of about this size: small enough that a report or a removal behind
/// them does not wait long on a slow link.
pub const BATCH_BYTES: usize = 128 << 10;
/// And of no more than this many items, so that one ledger transaction stays short.
pub const BATCH_ITEMS: usize = 256;
/// Entries of one `Index` message: about 100 kB.
pub const INDEX_BATCH: usize = 1024;
/// More items than this in one set is no node's set; a peer that claims so is cut off.
pub const MAX_SET_ITEMS: usize = 100_000;
/// Who has not said Hello by then is cut off.
pub const HELLO_TIMEOUT: u64 = 10_000;
/// How long the server waits before it offers a set again that the agent's ledger could not take.
pub const STORAGE_RETRY: u64 = 10_000;

/// Why a session ends. The connection is closed and, where it makes sense, dialled again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The server said no.
    Refused(Refuse),
    /// We said no to the server; its state is not for this node.
    Foreign(Refuse),
    /// The peer broke the protocol; the text says how.
    Violation(&'static str),
    /// No Hello in time.
    Silent,
    /// The node has a new certificate in place of an expired one: it dials again with that.
    Renewed,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Refused(refuse) => write!(f, "refused by the server: {}", refuse.message),
            Ended::Foreign(refuse) => f.write_str(&refuse.message),
            Ended::Violation(what) => write!(f, "the peer broke the protocol: {what}"),
            Ended::Silent => f.write_str("the peer said nothing"),
            Ended::Renewed => f.write_str("the expired certificate was renewed"),
        }
    }
}

impl std::error::Error for Ended {}

#[cfg(test)]
mod tests;
