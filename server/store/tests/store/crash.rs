//! The embedded store over a disk that fails: a power cut or an I/O error at every operation.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_store::{Change, Class, Commit, CommitError, Embedded, Key, OpenError, Options, Revision, Store};
use futures_lite::future::zip;
use smol::block_on;

use crate::embedded::small;
use crate::sim::{Fault, SimDisk, Survives};
use crate::suite::{key, range};

/// What must be found after a failure.
#[derive(Clone, Debug, Default)]
struct Expected {
    /// Acknowledged durable values.
    durable: BTreeMap<Key, (Revision, Vec<u8>)>,
    /// Commits without an answer since the last acknowledged durable one: each may have happened
    /// as a whole.
    unknown: Vec<Vec<(Key, Option<Vec<u8>>)>>,
    /// The newest heartbeat before the last acknowledged durable commit, and the newest tried.
    beats: (u64, u64),
    beat_acknowledged: u64,
    newest: Revision,
    errors: usize,
}

/// Steps of a whole run: some checkpoints happen in it.
const RUN: u64 = 36;
/// Steps that show that a store works on.
const SHORT: u64 = 6;

/// The changes of a step: two objects that always change together, one that comes and goes, a
/// Secret, and now and then something larger than a block.
fn step(number: u64) -> Vec<(Key, Option<Vec<u8>>)> {
    let text = format!("value {number}");
    let object = |name: &str| key("configmaps", "default", name);
    match number % 6 {
        0 | 3 => vec![(object("left"), Some(text.clone().into_bytes())), (object("right"), Some(text.into_bytes()))],
        1 => vec![(object(&format!("n{}", number % 4)), Some(text.repeat(800).into_bytes()))],
        2 => vec![(object(&format!("n{}", (number + 1) % 4)), None), (object("gone"), Some(b"x".to_vec()))],
        4 => vec![(key("secrets", "default", "s"), Some(text.into_bytes()))],
        _ => vec![(object("gone"), None), (object(&format!("k{number}")), Some(text.into_bytes()))],
    }
}

fn commit(changes: &[(Key, Option<Vec<u8>>)]) -> Commit {
    changes.iter().fold(Commit::new(), |commit, (key, value)| match value {
        Some(value) => commit.change(Change::Put {
            key: key.clone(),
            schema: 1,
            value: value.as_slice().into(),
            class: Class::Durable,
            seal: (&*key.resource == "secrets").then(|| "uid".into()),
        }),
        None => commit.delete(key.clone()),
    })
}

fn beat_key() -> Key {
    key("leases.coordination.k8s.io", "kube-node-lease", "n")
}

impl Expected {
    fn answered(&mut self, changes: Vec<(Key, Option<Vec<u8>>)>, answer: Result<Revision, CommitError>) {
        match answer {
            Ok(revision) => {
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(self.durable.insert(key, (revision, value))),
                        None => drop(self.durable.remove(&key)),
                    }
                }
                assert!(revision >= self.newest);
                self.newest = revision;
                self.unknown.clear();
                self.beats.0 = self.beat_acknowledged;
            }
            Err(CommitError::Io(_) | CommitError::Closed) => {
                self.errors += 1;
                self.unknown.push(changes);
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Runs some steps. With `stop` the first error ends it, as it ends a process.
    fn run(&mut self, store: &Embedded, steps: std::ops::Range<u64>, stop: bool) {
        for number in steps {
            if number % 3 == 0 {
                // Two at once: one frame or two.
                let other = vec![(key("configmaps", "other", "pair"), Some(number.to_le_bytes().to_vec()))];
                let (one, two) = (store.commit(commit(&step(number))), store.commit(commit(&other)));
                let (one, two) = block_on(zip(one, two));
                self.answered(step(number), one);
                self.answered(other, two);
            } else {
                let answer = block_on(store.commit(commit(&step(number))));
                self.answered(step(number), answer);
            }
            if stop && self.errors > 0 {
                return;
            }
            self.beats.1 = number;
            let beat = Commit::new().put_volatile(beat_key(), 1, number.to_le_bytes());
            match block_on(store.commit(beat)) {
                Ok(revision) => {
                    self.beat_acknowledged = number;
                    assert!(revision > self.newest);
                    self.newest = revision;
                }
                Err(_) if stop => return,
                Err(_) => self.errors += 1,
            }
            self.check_reads(store);
        }
    }

    /// The running store shows exactly what it acknowledged.
    fn check_reads(&self, store: &Embedded) {
        for (key, (revision, value)) in &self.durable {
            let item = store.get(key).unwrap_or_else(|| panic!("{key} is gone"));
            assert_eq!((item.revision, &*item.value), (*revision, &**value), "{key}");
        }
        let count = store.count("configmaps") + store.count("secrets");
        assert_eq!(count, self.durable.len());
        assert_eq!(store.revision(), self.newest);
    }

    /// What a new process finds: all that was acknowledged, and of the rest whole commits only.
    fn check_recovered(&self, store: &Embedded) {
        assert!(store.revision() > self.newest, "{} is not above {}", store.revision(), self.newest);
        let mut found = BTreeMap::new();
        for resource in ["configmaps", "secrets"] {
            let page = store.list(&range(resource)).expect("now");
            found.extend(page.items.into_iter().map(|item| (item.key.clone(), item)));
        }
        let values: BTreeMap<Key, Vec<u8>> = found.iter().map(|(k, item)| (k.clone(), item.value.to_vec())).collect();
        let wanted: BTreeMap<Key, Vec<u8>> = self.durable.iter().map(|(k, (_, v))| (k.clone(), v.clone())).collect();
        let possible = (0..1 << self.unknown.len()).any(|subset: u32| {
            let mut state = wanted.clone();
            for (index, changes) in self.unknown.iter().enumerate() {
                if subset & (1 << index) != 0 {
                    for (key, value) in changes {
                        match value {
                            Some(value) => drop(state.insert(key.clone(), value.clone())),
                            None => drop(state.remove(key)),
                        }
                    }
                }
            }
            state == values
        });
        assert!(possible, "found {:?}\nof {:?}\nunknown {:?}", values.keys(), wanted.keys(), self.unknown);
        for (key, (revision, value)) in &self.durable {
            if values.get(key) == Some(value) && found[key].revision != *revision {
                let again = self.unknown.iter().flatten().any(|(other, _)| other == key);
                assert!(again, "{key} has revision {} and not {revision}", found[key].revision);
            }
        }
        let beat = store.get(&beat_key()).map(|item| u64::from_le_bytes(item.value[..].try_into().expect("8 bytes")));
        let beat = beat.unwrap_or(0);
        assert!(self.beats.0 <= beat && beat <= self.beats.1, "beat {beat} in {:?}", self.beats);
    }

    /// What was unknown is known now; goes on from what was found.
    fn adopt(&mut self, store: &Embedded) {
        *self = Expected { beats: (0, self.beats.1), newest: store.revision(), ..Expected::default() };
        for resource in ["configmaps", "secrets"] {
            for item in store.list(&range(resource)).expect("now").items {
                self.durable.insert(item.key, (item.revision, item.value.to_vec()));
            }
        }
        let beat = store.get(&beat_key()).map(|item| u64::from_le_bytes(item.value[..].try_into().expect("8 bytes")));
        self.beat_acknowledged = beat.unwrap_or(0);
    }
}

fn open(disk: &SimDisk) -> Result<Embedded, OpenError> {
    Embedded::open_on(Arc::new(disk.clone()), small())
}

/// Recovers, checks, works on, and recovers once more.
fn recover(mut expected: Expected, disk: &SimDisk) {
    let store = open(disk).unwrap_or_else(|error| panic!("{error}"));
    expected.check_recovered(&store);
    expected.adopt(&store);
    expected.run(&store, 1000..1000 + SHORT, false);
    assert_eq!(expected.errors, 0);
    drop(store);
    let store = open(&disk.after_cut(Survives::Nothing, 0)).unwrap_or_else(|error| panic!("{error}"));
    expected.beats.0 = expected.beat_acknowledged;
    expected.check_recovered(&store);
}

const ALL: [Survives; 3] = [Survives::Nothing, Survives::Everything, Survives::Any];

/// Cuts a run at one operation and hands on what is on the disk. `None`: the run ended before.
fn cut(at: u64) -> Option<(Expected, SimDisk)> {
    let disk = SimDisk::new(at);
    disk.inject(at, Fault::Cut);
    let mut expected = Expected::default();
    match open(&disk) {
        Ok(store) => {
            expected.newest = store.revision();
            expected.run(&store, 0..RUN, true);
            if !disk.struck() {
                return None;
            }
        }
        Err(error) => assert!(matches!(error, OpenError::Io { .. }), "{error:?}"),
    }
    Some((expected, disk))
}

#[test]
fn a_power_cut_at_every_operation() {
    let mut cuts = 0;
    while let Some((expected, disk)) = cut(cuts) {
        for survives in ALL {
            for seed in 0..if survives == Survives::Any { 2 } else { 1 } {
                println!("cut at operation {cuts}, {survives:?} survives, seed {seed}");
                recover(expected.clone(), &disk.after_cut(survives, seed));
            }
        }
        cuts += 1;
    }
    assert!(cuts > 150, "only {cuts} operations were cut");
}

#[test]
fn a_power_cut_at_every_operation_of_a_recovery() {
    let mut again = 0;
    for first in (0..200).step_by(11) {
        let Some((expected, disk)) = cut(first) else { break };
        for second in 0.. {
            let disk = disk.after_cut(Survives::Any, second);
            disk.inject(second, Fault::Cut);
            let opened = open(&disk);
            let struck = disk.struck();
            drop(opened);
            if !struck {
                break;
            }
            for survives in ALL {
                println!("cut at operation {first}, again at {second}, {survives:?} survives");
                let store = open(&disk.after_cut(survives, second)).unwrap_or_else(|error| panic!("{error}"));
                expected.check_recovered(&store);
            }
            again += 1;
        }
    }
    assert!(again > 50, "only {again} recoveries were cut");
}

#[test]
fn an_io_error_at_every_operation() {
    for errors in [1, 5, 40] {
        let mut struck = 0;
        for at in 0.. {
            println!("{errors} errors from operation {at} on");
            let disk = SimDisk::new(at);
            let mut expected = Expected::default();
            disk.inject(at, Fault::Errors(errors));
            let store = match open(&disk) {
                Ok(store) => store,
                Err(error) => {
                    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
                    disk.heal();
                    open(&disk).unwrap_or_else(|error| panic!("{error}"))
                }
            };
            expected.newest = store.revision();
            expected.run(&store, 0..RUN, false);
            if !disk.struck() {
                break;
            }
            struck += 1;
            disk.heal();
            let before = expected.errors;
            expected.run(&store, 102..102 + RUN / 2, false);
            assert_eq!(expected.errors, before, "the store works again when the disk does");
            // The store is not asked to close: the power goes.
            let found = disk.after_cut(Survives::Any, at);
            recover(expected, &found);
        }
        assert!(struck > 150, "only {struck} operations failed");
    }
}

/// A failed commit followed by a crash: it may be there as a whole or not at all.
#[test]
fn an_error_and_then_a_power_cut() {
    for at in 0.. {
        let disk = SimDisk::new(at);
        let mut expected = Expected::default();
        let Ok(store) = open(&disk) else { panic!("nothing fails yet") };
        expected.newest = store.revision();
        disk.inject(at, Fault::Errors(3));
        expected.run(&store, 0..RUN, true);
        if !disk.struck() {
            break;
        }
        for survives in ALL {
            println!("errors at operation {at}, {survives:?} survives");
            recover(expected.clone(), &disk.after_cut(survives, at));
        }
    }
}

#[test]
fn a_full_disk_still_takes_deletes() {
    let disk = SimDisk::new(1);
    let open = |disk: &SimDisk| {
        let options = Options { reserve_bytes: 256 << 10, ..small() };
        Embedded::open_on(Arc::new(disk.clone()), options)
    };
    let store = open(&disk).expect("an empty disk works");
    let name = |number: u32| key("configmaps", "default", &format!("object-{number}"));
    let put = |number: u32| Commit::new().put(name(number), 1, vec![b'v'; 1000]);
    for number in 0..200 {
        block_on(store.commit(put(number))).expect("there is room");
    }
    disk.set_capacity(64 << 20);
    disk.leave_free(0);
    let refused = block_on(store.commit(put(1000))).expect_err("the disk is full").to_string();
    for words in ["the disk of sim:/store is full", "0.0 MiB are free", "MiB are needed", "delete objects"] {
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(store.get(&name(1000)), None);
    for round in 0..3 {
        for number in 0..100 {
            let value = vec![round; 1000];
            let put = Commit::new().put(name(number), 1, value);
            block_on(store.commit(put)).unwrap_or_else(|error| panic!("update {number} in round {round}: {error}"));
        }
    }
    for number in 0..200 {
        block_on(store.commit(Commit::new().delete(name(number)))).expect("deletes work");
    }
    assert_eq!(store.count("configmaps"), 0);
    drop(store);
    let store = open(&disk).expect("it opens on a full disk");
    assert_eq!(store.count("configmaps"), 0);
    assert!(matches!(block_on(store.commit(put(1))), Err(CommitError::Full(_))));
    disk.leave_free(32 << 20);
    block_on(store.commit(put(1))).expect("there is room again");
}

#[test]
fn no_secret_is_on_the_disk_at_any_time() {
    let disk = SimDisk::new(1);
    let store = open(&disk).expect("it works");
    for number in 0..60 {
        let change = Change::Put {
            key: key("secrets", "default", "s"),
            schema: 1,
            value: format!("correct horse {number}").into_bytes().into(),
            class: if number % 2 == 0 { Class::Durable } else { Class::Volatile },
            seal: Some("uid".into()),
        };
        block_on(store.commit(Commit::new().change(change))).expect("it works");
        assert!(!disk.contains(b"correct horse"));
    }
}
