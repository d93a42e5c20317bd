//! The shared set is acknowledged once the kernel balances by it, not only once it is on disk: the
//! server tells a pod to stop when every node has let go of it, and takes the acknowledgement for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_channel::Sender;
use coracle_shared::desired::{ItemId, SetKind};
use coracle_shared::ids::Digest;
use coracle_shared::session::Apply;
use coracle_shared::wire::Heads;
use event_listener::Event;

use crate::ledger::Keeper;
use crate::link::{BoxFuture, Desired};

/// A kernel that does not take the services holds no acknowledgement up for longer than this.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// How often the network was asked to follow the ledger, and which of these times it has.
#[derive(Debug, Default)]
pub struct Turns {
    asked: AtomicU64,
    done: AtomicU64,
    moved: Event,
}

impl Turns {
    /// The newest turn: to be read before the ledger is.
    pub fn newest(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// The kernel has what the ledger held when [`Self::newest`] said `turn`.
    pub fn done(&self, turn: u64) {
        self.done.fetch_max(turn, Ordering::SeqCst);
        self.moved.notify(usize::MAX);
    }

    fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn reach(&self, turn: u64) {
        loop {
            let moved = self.moved.listen();
            if self.done.load(Ordering::SeqCst) >= turn {
                return;
            }
            moved.await;
        }
    }
}

/// The ledger as the link sees it: what it says is held of the shared set is acted on as well.
pub struct Acting {
    pub keeper: Keeper,
    pub turns: Arc<Turns>,
    /// Wakes the network task.
    pub news: Sender<()>,
}

impl Desired for Acting {
    fn heads(&self) -> Heads {
        self.keeper.heads()
    }

    fn index(&self, set: SetKind) -> BoxFuture<'_, Result<Vec<(ItemId, Digest)>, String>> {
        self.keeper.index(set)
    }

    fn apply(&self, change: Apply) -> BoxFuture<'_, Result<Digest, String>> {
        let is_last = change.set == SetKind::Shared && change.generation.is_some();
        let written = self.keeper.apply(change);
        Box::pin(async move {
            let digest = written.await?;
            if is_last {
                let turn = self.turns.ask();
                // Full: the task has not looked yet, and will see this too.
                let _ = self.news.try_send(());
                let timeout = async {
                    smol::Timer::after(MAX_WAIT).await;
                };
                futures_lite::future::or(self.turns.reach(turn), timeout).await;
            }
            Ok(digest)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_reached_when_it_or_a_later_one_is_done() {
        let turns = Turns::default();
        let (first, second) = (turns.ask(), turns.ask());
        let reached = |turn| smol::block_on(futures_lite::future::poll_once(turns.reach(turn))).is_some();
        assert!(!reached(first));
        turns.done(first);
        assert!(reached(first) && !reached(second));
        turns.done(turns.newest());
        assert!(reached(second));
        turns.done(first);
        assert!(reached(second), "an older turn takes nothing back");
    }
}
