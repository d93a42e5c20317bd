//! The embedded store on a real directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coracle_store::{Change, Class, Commit, CommitError, Embedded, HistoryError, OpenError, Options, Revision, Store};
use proptest::prelude::*;
use smol::block_on;

use crate::model;
use crate::suite::{Fixture, check_all, key, pod};

/// Small segments, so that every test turns them over and writes checkpoints.
pub fn small() -> Options {
    Options { segment_bytes: 64 << 10, reserve_bytes: 64 << 10, ..Options::default() }
}

fn open(path: &Path) -> Embedded {
    Embedded::open(path, small()).expect("it opens")
}

fn put(store: &Embedded, name: &str, value: &[u8]) -> Revision {
    block_on(store.commit(Commit::new().put(pod(name), 1, value.to_vec()))).expect("the disk works")
}

fn value(store: &Embedded, name: &str) -> Option<Vec<u8>> {
    store.get(&pod(name)).map(|item| item.value.to_vec())
}

#[test]
fn suite() {
    for options in [small(), Options::default()] {
        check_all(|| {
            let now = Arc::new(AtomicU64::new(1000));
            let clock = now.clone();
            let clock = Arc::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
            let directory = tempfile::tempdir().expect("a temporary directory");
            let store = Embedded::open(directory.path(), Options { clock, ..options.clone() }).expect("it opens");
            Fixture { store: Box::new(store), now, keep: Some(Box::new(directory)) }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn model(steps in model::steps()) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        model::run(&open(directory.path()), &steps);
    }
}

#[test]
fn everything_comes_back_through_many_checkpoints() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = open(directory.path());
    let id = store.id();
    let mut newest = store.revision();
    for round in 0..5u8 {
        for number in 0..200u32 {
            put(&store, &format!("{}", number * 7 % 90), &[round, number as u8, 0]);
        }
        for number in 0..10u32 {
            let name = format!("{}", number + 10 * u32::from(round));
            block_on(store.commit(Commit::new().delete(pod(&name)))).expect("the disk works");
        }
        let before: Vec<_> = all(&store);
        assert!(store.revision() > newest);
        newest = store.revision();
        drop(store);
        store = open(directory.path());
        assert_eq!(all(&store), before, "values and revisions of durable objects");
        assert_eq!(store.id(), id);
        assert!(store.revision() > newest);
        let old = store.changes(None, newest, 10).map(drop);
        assert_eq!(old, Err(HistoryError::Compacted { floor: store.revision() }));
    }
}

fn all(store: &Embedded) -> Vec<(String, Revision, Vec<u8>)> {
    let page = store.list(&crate::suite::range("pods")).expect("now");
    page.items.into_iter().map(|i| (i.key.name.to_string(), i.revision, i.value.to_vec())).collect()
}

#[test]
fn volatile_writes_ride_and_get_a_new_revision() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    put(&store, "durable", b"1");
    let used = used(directory.path());
    let nodes = |value: &[u8]| Commit::new().put_volatile(key("nodes", "", "n"), 1, value.to_vec());
    let mut seen = block_on(store.commit(nodes(b"0"))).expect("the disk works");
    let once = self::used(directory.path());
    assert!(once > used, "the resource is marked once");
    for beat in 1..1000 {
        seen = block_on(store.commit(nodes(beat.to_string().as_bytes()))).expect("the disk works");
    }
    assert_eq!(self::used(directory.path()), once, "heartbeats never cause a write");
    // What a power cut leaves: the files as they are now.
    let copy = tempfile::tempdir().expect("a temporary directory");
    copy_files(directory.path(), copy.path());
    let after = open(copy.path());
    let item = after.get(&key("nodes", "", "n")).expect("its first version was on disk");
    assert!(item.revision > seen, "an older version gets a newer revision");
    assert_eq!(item.revision, after.revision());
    drop(after);

    put(&store, "durable", b"2");
    let copy = tempfile::tempdir().expect("a temporary directory");
    copy_files(directory.path(), copy.path());
    let after = open(copy.path());
    assert_eq!(&*after.get(&key("nodes", "", "n")).expect("it rode").value, b"999");
    assert_eq!(value(&after, "durable"), Some(b"2".to_vec()));
}

/// Where the journal's last frame ends: the bytes that are not zero.
fn used(path: &Path) -> usize {
    let bytes = fs::read(path.join("journal.0")).expect("it is there");
    bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

#[test]
fn no_secret_in_any_file_but_the_key() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let secret = b"correct horse battery staple";
    for round in 0..60 {
        let mut value = secret.to_vec();
        value.extend(format!("-{round}").bytes().chain([b'.'; 4000]));
        let class = if round % 3 == 0 { Class::Volatile } else { Class::Durable };
        let change = Change::Put {
            key: key("secrets", "default", &format!("s{}", round % 7)),
            schema: 1,
            value: value.into(),
            class,
            seal: Some(format!("uid-{}", round % 7).into()),
        };
        block_on(store.commit(Commit::new().change(change))).expect("the disk works");
        put(&store, "plain", b"plain text is found");
    }
    drop(store);
    let mut plain = 0;
    for entry in fs::read_dir(directory.path()).expect("a directory") {
        let entry = entry.expect("an entry");
        let bytes = fs::read(entry.path()).expect("it is readable");
        assert!(!contains(&bytes, b"horse"), "{:?}", entry.file_name());
        plain += usize::from(contains(&bytes, b"plain text is found"));
        let mode = entry.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", entry.file_name());
    }
    assert!(plain >= 2, "journal and checkpoint were searched");
    let store = open(directory.path());
    let item = store.get(&key("secrets", "default", "s3")).expect("it was stored");
    assert!(item.value.starts_with(b"correct horse battery staple-59"));
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn refuses_to_open_without_its_key() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    drop(open(directory.path()));
    let path = directory.path().join("secret.key");
    let key = fs::read(&path).expect("the key");
    fs::write(&path, [b'0'; 64]).expect("written");
    assert!(matches!(Embedded::open(directory.path(), small()), Err(OpenError::KeyChanged)));
    fs::write(&path, "short").expect("written");
    assert!(matches!(Embedded::open(directory.path(), small()), Err(OpenError::Damaged { .. })));
    fs::remove_file(&path).expect("removed");
    assert!(matches!(Embedded::open(directory.path(), small()), Err(OpenError::KeyMissing)));
    assert!(!path.exists(), "no new key is made for an old store");
    fs::write(&path, key).expect("written");
    drop(open(directory.path()));
}

#[test]
fn refuses_lost_files_and_a_second_process() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    assert!(matches!(Embedded::open(directory.path(), small()), Err(OpenError::Locked)));
    put(&store, "a", b"x");
    drop(store);
    for lost in ["store.redb", "journal.0"] {
        let aside = directory.path().join("aside");
        fs::rename(directory.path().join(lost), &aside).expect("renamed");
        let opened = Embedded::open(directory.path(), small()).map(drop);
        assert!(matches!(opened, Err(OpenError::Damaged { .. })), "without {lost}: {opened:?}");
        fs::rename(&aside, directory.path().join(lost)).expect("renamed");
    }
    assert_eq!(value(&open(directory.path()), "a"), Some(b"x".to_vec()));
}

#[test]
fn a_broken_frame_in_the_middle_is_damage_and_a_torn_end_is_not() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    for number in 0..4 {
        put(&store, &format!("{number}"), &[b'v'; 5000]);
    }
    let path = directory.path().join("journal.0");
    let cut = fs::read(&path).expect("the journal as a power cut leaves it");
    drop(store);
    let closed = fs::read(&path).expect("the journal");
    // Blocks: 2 of header, 1 of the opening frame, 2 for each put, 1 of the closing frame.
    let flip = |whole: &[u8], block: usize| {
        let mut bytes = whole.to_vec();
        bytes[block * 4096 + 100] ^= 1;
        fs::write(&path, bytes).expect("written");
        Embedded::open(directory.path(), small())
    };
    assert!(matches!(flip(&cut, 5), Err(OpenError::Damaged { .. })));
    assert!(matches!(flip(&cut, 8), Err(OpenError::Damaged { .. })));
    let opened = flip(&cut, 10).expect("the last frame may be torn");
    assert_eq!(opened.count("pods"), 3);
    drop(opened);
    assert!(matches!(flip(&closed, 10), Err(OpenError::Damaged { .. })), "a closed journal has no torn end");
    for byte in [8, 30] {
        let mut bytes = closed.clone();
        bytes[byte] ^= 1;
        fs::write(&path, bytes).expect("written");
        let opened = Embedded::open(directory.path(), small()).expect("the second copy of the header is whole");
        assert_eq!(opened.count("pods"), 4, "byte {byte}");
    }
}

#[test]
fn a_closed_store_answers_so_and_reads_on() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    put(&store, "a", b"x");
    store.close();
    let closed = block_on(store.commit(Commit::new().put(pod("b"), 1, *b"x")));
    assert_eq!(closed, Err(CommitError::Closed));
    assert_eq!(value(&store, "a"), Some(b"x".to_vec()));
}

#[test]
fn a_commit_of_the_largest_size() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    let large = vec![b'l'; 3 << 20];
    let commit = Commit::new().put(pod("a"), 1, large.clone()).put(pod("b"), 1, large.clone());
    block_on(store.commit(commit)).expect("the disk works");
    put(&store, "c", b"after");
    drop(store);
    let store = open(directory.path());
    assert_eq!(value(&store, "b"), Some(large));
    assert_eq!(value(&store, "c"), Some(b"after".to_vec()));
}
