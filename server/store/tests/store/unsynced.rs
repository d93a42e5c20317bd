//! Failed syncs of one kind of file. What they left unwritten is shown by reads and written by no
//! later sync: a store that built upon it would lose what it acknowledged at the next power cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coracle_store::{Commit, CommitError, Embedded, Key, Options, Store};
use smol::block_on;

use crate::embedded::small;
use crate::sim::{SimDisk, Survives};
use crate::suite::{key, range};

/// Objects, in many pages of the checkpoint: a change of some leaves most pages alone.
const OBJECTS: u64 = 150;
/// Changes of a round: some segments.
const CHANGES: u64 = 50;

struct World {
    disk: SimDisk,
    store: Embedded,
    now: Arc<AtomicU64>,
    /// What each object may hold: several values after errors.
    expected: BTreeMap<Key, Vec<Vec<u8>>>,
    written: u64,
}

fn open(disk: &SimDisk, now: &Arc<AtomicU64>) -> Embedded {
    let clock = now.clone();
    let clock = Arc::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
    Embedded::open_on(Arc::new(disk.clone()), Options { clock, reserve_bytes: 256 << 10, ..small() })
        .unwrap_or_else(|error| panic!("{error}"))
}

impl World {
    fn new(seed: u64) -> World {
        let (disk, now) = (SimDisk::new(seed), Arc::new(AtomicU64::new(1000)));
        let store = open(&disk, &now);
        let mut world = World { disk, store, now, expected: BTreeMap::new(), written: 0 };
        world.round(0..OBJECTS);
        world
    }

    fn round(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.written += 1;
            let mut value = self.written.to_le_bytes().to_vec();
            value.resize(900, number as u8);
            let key = key("configmaps", "default", &format!("object-{:03}", number % OBJECTS));
            match block_on(self.store.commit(Commit::new().put(key.clone(), 1, value.clone()))) {
                Ok(_) => drop(self.expected.insert(key, vec![value])),
                Err(CommitError::Io(_)) => self.expected.entry(key).or_default().push(value),
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Lets the time pass after which a checkpoint is tried again.
    fn later(&self) {
        self.now.fetch_add(1000, Ordering::Relaxed);
    }

    fn check(&self, store: &Embedded) {
        let page = store.list(&range("configmaps")).expect("now");
        assert_eq!(page.items.len(), self.expected.len());
        for item in page.items {
            assert!(self.expected[&item.key].contains(&item.value.to_vec()), "{} was lost", item.key);
        }
    }

    fn check_after_cut(&self) {
        for (survives, seed) in [(Survives::Nothing, 0), (Survives::Any, 1)] {
            self.check(&open(&self.disk.after_cut(survives, seed), &self.now));
        }
    }

    /// Another process goes on with the disk as this one sees it.
    fn restarted(&self) -> World {
        let disk = self.disk.after_kill();
        let store = open(&disk, &self.now);
        self.check(&store);
        let items = store.list(&range("configmaps")).expect("now").items;
        let expected = items.into_iter().map(|item| (item.key, vec![item.value.to_vec()])).collect();
        World { disk, store, now: self.now.clone(), expected, written: self.written + 1000 }
    }
}

/// Every sync of a file called so fails in turn, and as many after it as `more`.
fn every_sync(file: &str, more: u64) {
    let mut struck = 0;
    for nth in 0.. {
        println!("sync {nth} of {file} fails, and {more} more");
        let mut world = World::new(nth);
        world.disk.fail_syncs(file, nth, 1 + more);
        world.round(0..CHANGES);
        if !world.disk.struck() {
            break;
        }
        struck += 1;
        world.check_after_cut();
        // The process dies of something else before it mended anything.
        let mut other = world.restarted();
        other.check_after_cut();
        other.round(100..100 + CHANGES);
        other.check_after_cut();
        // Or it goes on, with other objects at first.
        for round in [70, 0] {
            world.later();
            world.round(round..round + CHANGES);
            world.check_after_cut();
        }
        world.restarted().check_after_cut();
    }
    assert!(struck > 5, "only {struck} syncs failed");
}

#[test]
fn a_checkpoint_is_not_built_upon_a_failed_sync() {
    every_sync("store.redb", 0);
    every_sync("store.redb", 3);
}

#[test]
fn a_journal_is_not_built_upon_a_failed_sync() {
    every_sync("journal.", 0);
    every_sync("journal.", 3);
}

/// There is no room for a second file: the first is written again, and deletes still work.
#[test]
fn a_failed_sync_on_a_full_disk() {
    let mut struck = 0;
    for nth in 0.. {
        let mut world = World::new(nth);
        world.disk.set_capacity(64 << 20);
        world.disk.fail_syncs("store.redb", nth, 1);
        world.round(0..CHANGES);
        if !world.disk.struck() {
            break;
        }
        println!("sync {nth} fails, and the disk is full");
        struck += 1;
        world.disk.leave_free(0);
        let mut restarted = world.restarted();
        restarted.later();
        for world in [&mut world, &mut restarted] {
            world.later();
            world.check_after_cut();
            for number in 0..OBJECTS {
                let key = key("configmaps", "default", &format!("object-{number:03}"));
                let delete = || block_on(world.store.commit(Commit::new().delete(key.clone())));
                // It may take an attempt or two until the file can be built upon again.
                let mut tries = (0..3).map(|_| delete().inspect_err(|_| world.later()));
                assert!(tries.any(|answer| answer.is_ok()), "deletes work");
                world.expected.remove(&key);
            }
            world.check_after_cut();
        }
    }
    assert!(struck > 5, "only {struck} syncs failed");
}
