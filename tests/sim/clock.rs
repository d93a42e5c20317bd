//! Virtual time: one number that the event loop moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coracle_shared::time::{Clock, Millis};

/// What the wall shows at virtual time 0, in milliseconds since the Unix epoch.
pub const EPOCH: i64 = 1_800_000_000_000;

/// Milliseconds since the simulation began; clones are the same clock.
#[derive(Clone, Default)]
pub struct Virtual(Arc<AtomicU64>);

impl Virtual {
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    pub fn wall_millis(&self) -> i64 {
        EPOCH + self.now() as i64
    }

    /// As the store and the nodes' room take it.
    pub fn store_clock(&self) -> coracle_store::Clock {
        let clock = self.clone();
        Arc::new(move || Duration::from_millis(clock.now()))
    }
}

impl Clock for Virtual {
    fn wall(&self) -> Millis {
        Millis(self.wall_millis())
    }

    fn monotonic(&self) -> Millis {
        Millis(self.now() as i64)
    }
}
