//! The store's tests: one suite over every backend, and what only the embedded one promises.

mod backup;
mod crash;
mod embedded;
mod flips;
mod golden;
mod model;
#[allow(dead_code, reason = "the simulator uses the rest of it")]
mod sim;
mod suite;
mod unsynced;

mod memory {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use coracle_store::Memory;

    use crate::suite::{Fixture, check_all};

    #[test]
    fn suite() {
        check_all(|| {
            let now = Arc::new(AtomicU64::new(1000));
            let clock = now.clone();
            let clock = Arc::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
            Fixture { store: Box::new(Memory::new([7; 16], clock)), now, keep: None }
        });
    }
}
