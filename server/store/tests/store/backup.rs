//! Backups of a store at work, restored elsewhere; a new key; and power cuts in the middle of both.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_store::backup::{self, RestoreError};
use coracle_store::embedded::{rotate_key, settle};
use coracle_store::{Change, Class, Commit, Embedded, HistoryError, OpenError, Store};
use smol::block_on;

use crate::embedded::small;
use crate::suite::{key, range};

const SECRET: &[u8] = b"correct horse battery staple";
/// Seconds since the Unix epoch.
const NOW: u64 = 1_800_000_000;

fn open(path: &Path) -> Embedded {
    Embedded::open(path, small()).unwrap_or_else(|error| panic!("{error}"))
}

fn all(store: &Embedded) -> Vec<(String, u64, Vec<u8>)> {
    let pages = ["configmaps", "secrets", "-alloc"].map(|resource| store.list(&range(resource)).expect("now"));
    let items = pages.into_iter().flat_map(|page| page.items);
    items.map(|i| (i.key.to_string(), i.revision.0, i.value.to_vec())).collect()
}

fn put(store: &Embedded, resource: &str, name: &str, value: &[u8]) {
    let put = Change::Put {
        key: key(resource, "default", name),
        schema: 1,
        value: value.into(),
        class: Class::Durable,
        seal: (resource == "secrets").then(|| format!("uid-of-{name}").into()),
    };
    block_on(store.commit(Commit::new().change(put))).expect("the disk works");
}

/// A store with Secrets in checkpoint and journal.
fn fill(path: &Path) -> Embedded {
    let store = open(path);
    for number in 0..300 {
        put(&store, "configmaps", &format!("c{}", number % 120), &[b'c'; 900]);
        put(&store, "secrets", &format!("s{}", number % 9), SECRET);
        put(&store, "-alloc", "10.43.0.1", b"x");
    }
    store
}

fn write(store: &Embedded, file: &Path) {
    let files = [("ca.key".to_owned(), SECRET.to_vec()), ("empty".to_owned(), Vec::new())];
    let bytes: Vec<u8> = store.snapshot(&files).flat_map(|piece| piece.expect("it is sealed")).collect();
    fs::write(file, bytes).expect("written");
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_backup_taken_at_work_comes_back_elsewhere() {
    let (from, to) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let store = Arc::new(fill(from.path()));
    let before = all(&store);
    let file = to.path().join("backup");
    let snapshot = store.snapshot(&[]);
    put(&store, "configmaps", "c0", b"after the snapshot");
    let bytes: Vec<u8> = snapshot.flat_map(|piece| piece.expect("it is sealed")).collect();
    fs::write(&file, bytes).expect("written");
    let secret_key = fs::read(from.path().join("secret.key")).expect("the key");

    let mut epochs = vec![store.id().epoch];
    let mut revisions = vec![store.revision()];
    for (round, now) in [(0, NOW), (1, NOW + 1)] {
        let directory = to.path().join(format!("store-{round}"));
        let backup = backup::read(&file, &secret_key).unwrap_or_else(|error| panic!("{error}"));
        let count = backup.restore(&directory, now, |key| &*key.name != "c7").expect("it is restored");
        let restored = open(&directory);
        let expected: Vec<_> = before.iter().filter(|(key, ..)| !key.ends_with("/c7")).cloned().collect();
        assert!(all(&restored) == expected, "everything but what was left out, at its revision");
        assert_eq!(count, expected.len());
        assert_eq!(restored.id().uuid, store.id().uuid);
        epochs.push(restored.id().epoch);
        revisions.push(restored.revision());
        let old_watch = restored.changes(None, revisions[0], 10).map(drop);
        assert_eq!(old_watch, Err(HistoryError::Compacted { floor: restored.revision() }), "old watches are void");
        put(&restored, "configmaps", "new", b"it works on");
        let again = backup::read(&file, &secret_key).expect("whole").restore(&directory, now, |_| true);
        assert!(matches!(again, Err(RestoreError::Occupied)));
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "each life has an epoch of its own: {epochs:?}");
    assert!(revisions.windows(2).all(|pair| pair[1].0 >= pair[0].0 + 900_000), "and revisions: {revisions:?}");
}

#[test]
fn a_backup_hides_secrets_and_brings_files_along() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = fill(&directory.path().join("store"));
    let file = directory.path().join("backup");
    write(&store, &file);
    let bytes = fs::read(&file).expect("the backup");
    assert!(!contains(&bytes, b"horse") && contains(&bytes, b"ccccc"));
    let secret_key = fs::read(directory.path().join("store/secret.key")).expect("the key");
    let backup = backup::read(&file, &secret_key).expect("whole");
    assert_eq!(backup.files, [("ca.key".to_owned(), SECRET.to_vec()), ("empty".to_owned(), Vec::new())]);
    let other = backup::read(&file, &[b'0'; 64]).map(drop);
    assert!(matches!(other, Err(RestoreError::Key)), "{other:?}");
    assert!(matches!(backup::read(&file, b"short").map(drop), Err(RestoreError::NoKey(_))));
}

#[test]
fn a_changed_or_cut_backup_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = fill(&directory.path().join("store"));
    let file = directory.path().join("backup");
    write(&store, &file);
    let secret_key = fs::read(directory.path().join("store/secret.key")).expect("the key");
    let whole = fs::read(&file).expect("the backup");
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).expect("written");
        assert!(backup::read(&file, &secret_key).is_err(), "{what}");
    };
    for offset in (0..200).chain((200..whole.len()).step_by(whole.len() / 150)) {
        let mut bytes = whole.clone();
        bytes[offset] ^= 1 << (offset % 8);
        refused(&bytes, &format!("byte {offset}"));
    }
    for length in [0, 5, 16, 100, whole.len() / 2, whole.len() - 32, whole.len() - 1] {
        refused(&whole[..length], &format!("cut at {length}"));
    }
    refused(&[&whole[..], b"x"].concat(), "with something behind it");
}

/// What stands behind the uids of Secrets in the files of a store: their sealed bytes.
fn sealed(directory: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("readable");
        let marks = bytes.windows(7).enumerate().filter(|(_, window)| window == b"uid-of-");
        found.extend(marks.filter_map(|(at, _)| Some(bytes.get(at + 9..at + 49)?.to_vec())));
    }
    found
}

#[test]
fn a_new_key_leaves_nothing_of_the_old_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = fill(&path);
    let (before, id, revision) = (all(&store), store.id(), store.revision());
    assert!(matches!(rotate_key(&path, &small()), Err(OpenError::Locked)), "not while a server uses it");
    drop(store);
    let old_key = fs::read(path.join("secret.key")).expect("the key");
    let old = sealed(&path);
    assert!(old.len() > 9, "{} sealed values in the old files", old.len());

    let count = rotate_key(&path, &small()).expect("the key changes");
    assert_eq!(count, before.len());
    let new_key = fs::read(path.join("secret.key")).expect("the key");
    assert_ne!(new_key, old_key);
    assert!(!sealed(&path).is_empty());
    for entry in fs::read_dir(&path).expect("a directory") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("readable");
        assert!(!old.iter().any(|needle| contains(&bytes, needle)), "something sealed with the old key is left");
    }
    assert!(!directory.path().join("store.old").exists() && !directory.path().join("store.new").exists());
    let store = open(&path);
    assert!(all(&store) == before, "the same objects at the same revisions");
    assert!(store.id() == id && store.revision() > revision);
    put(&store, "secrets", "later", SECRET);
    drop(store);
    fs::write(path.join("secret.key"), old_key).expect("written");
    assert!(matches!(Embedded::open(&path, small()), Err(OpenError::KeyChanged)));
}

#[test]
fn a_power_cut_between_two_renames_loses_nothing() {
    let check = |aside: &[(&str, &str)], expect: Option<&[u8]>| {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| -> PathBuf { directory.path().join(name) };
        for (name, value) in aside {
            drop(open(&at("store")));
            put(&open(&at("store")), "configmaps", "which", value.as_bytes());
            if *name != "store" {
                fs::rename(at("store"), at(name)).expect("renamed");
            }
        }
        let settled = settle(&at("store"));
        assert_eq!(settled.is_ok(), expect.is_some(), "{aside:?}: {settled:?}");
        let Some(value) = expect else { return };
        assert!(!at("store.old").exists() && !at("store.new").exists(), "{aside:?}");
        let found = open(&at("store")).get(&key("configmaps", "default", "which")).expect("it is there");
        assert_eq!(&*found.value, value, "{aside:?}");
    };
    check(&[("store", "served")], Some(b"served"));
    check(&[("store.new", "half made"), ("store", "served")], Some(b"served"));
    check(&[("store.old", "before"), ("store.new", "complete")], Some(b"complete"));
    check(&[("store.old", "before"), ("store", "complete")], Some(b"complete"));
    check(&[("store.old", "before")], Some(b"before"));
    check(&[("store.new", "half restored")], None);
}
