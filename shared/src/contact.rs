//! What a server knows of its nodes' connections, for whoever judges nodes by it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// When a node was last heard of, by the monotonic clock of this server's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// It has a session. `answering` is false while its reconcile loop does not answer (AgentStuck).
    Connected { answering: bool },
    /// Nothing was heard for this long. For a node that was never heard of since this server
    /// started, that is the time since the start: not knowing counts from here, never from before.
    Silent(Duration),
}

/// In-memory facts about connections; nothing of it is stored.
pub trait Contacts: Send + Sync + 'static {
    fn contact(&self, node: &str) -> Contact;

    /// Counts changes of any node's contact (connected, lost, answering or not).
    fn version(&self) -> u64;

    /// Resolves when [`Self::version`] is above `seen`.
    fn wait(&self, seen: u64) -> Pin<Box<dyn Future<Output = u64> + Send + '_>>;
}
