//! The formats on disk: stores written by earlier releases still open.
//!
//! `tests/golden/store/vN` at the top of the repository holds a store of format N as [`write`]
//! made it. A new format adds a directory; none is ever changed. Files are kept without their
//! trailing zeros, which are put back here.

use std::fs;
use std::path::{Path, PathBuf};

use coracle_store::{Change, Class, Commit, Embedded, Options, Store};
use smol::block_on;

use crate::suite::{key, range};

/// The format of checkpoints that this release writes.
const NEWEST: u32 = 2;

const SEGMENT: u64 = 32 << 10;

fn options() -> Options {
    Options { segment_bytes: SEGMENT, reserve_bytes: 4096, ..Options::default() }
}

fn golden(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/store/v{version}"))
}

/// Writes what every golden store holds, in part in the checkpoint, in part in the journal.
fn write(store: &Embedded) {
    let commit = |commit| block_on(store.commit(commit)).expect("the disk works");
    let change = |resource, name, value: &str, class, seal: Option<&str>| Change::Put {
        key: key(resource, "default", name),
        schema: 3,
        value: value.as_bytes().into(),
        class,
        seal: seal.map(Into::into),
    };
    commit(Commit::new().change(change("secrets", "early", "a secret", Class::Durable, Some("uid-1"))));
    commit(Commit::new().put(key("configmaps", "default", "deleted"), 1, *b"x"));
    for number in 0..8 {
        commit(Commit::new().put(key("configmaps", "default", "early"), 1, format!("{number}").into_bytes()));
    }
    commit(Commit::new().change(change("pods", "volatile", "reported", Class::Volatile, None)));
    commit(Commit::new().delete(key("configmaps", "default", "deleted")));
    commit(Commit::new().change(change("secrets", "late", "another secret", Class::Durable, Some("uid-2"))));
    commit(Commit::new().put(key("nodes", "", "n"), 7, *b"late").put(
        key("configmaps", "default", "late"),
        2,
        *b"late",
    ));
}

fn check(store: &Embedded) {
    let mut found = Vec::new();
    for resource in ["configmaps", "nodes", "pods", "secrets"] {
        let page = store.list(&range(resource)).expect("now");
        found.extend(
            page.items
                .into_iter()
                .map(|item| (item.key.to_string(), item.schema, String::from_utf8_lossy(&item.value).into_owned())),
        );
    }
    let found: Vec<(&str, u16, &str)> = found.iter().map(|(key, schema, value)| (&**key, *schema, &**value)).collect();
    let expected = [
        ("configmaps/default/early", 1, "7"),
        ("configmaps/default/late", 2, "late"),
        ("nodes//n", 7, "late"),
        ("pods/default/volatile", 3, "reported"),
        ("secrets/default/early", 3, "a secret"),
        ("secrets/default/late", 3, "another secret"),
    ];
    assert_eq!(found, expected);
}

/// Unpacks a golden store into a directory.
fn unpack(version: u32, directory: &Path) {
    for entry in fs::read_dir(golden(version)).expect("the golden files are in the repository") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut bytes = fs::read(entry.path()).expect("it is readable");
        match name.strip_suffix(".trimmed") {
            Some(name) => {
                let (length, rest) = bytes.split_first_chunk::<8>().expect("a length goes before");
                let length = u64::from_le_bytes(*length) as usize;
                let mut whole = rest.to_vec();
                whole.resize(length, 0);
                fs::write(directory.join(name), whole).expect("written");
            }
            None => {
                bytes.shrink_to_fit();
                fs::write(directory.join(name), bytes).expect("written");
            }
        }
    }
}

#[test]
fn earlier_versions_open_and_work_on() {
    [1, 2].into_iter().for_each(opens);
}

fn opens(version: u32) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    unpack(version, directory.path());
    let journal = fs::read(directory.path().join("journal.1")).expect("the golden journal");
    assert_eq!(&journal[..12], b"CORACLEJ\x01\0\0\0", "format 1");
    let store = Embedded::open(directory.path(), options()).expect("it opens");
    check(&store);
    assert_eq!(store.revision().0, 2_000_000, "the second start");
    assert_eq!(store.id().epoch, 1);
    for number in 0..20 {
        let value = format!("newer {number}").into_bytes();
        block_on(store.commit(Commit::new().put(key("nodes", "", "n"), 8, value))).expect("it works on");
    }
    drop(store);
    let store = Embedded::open(directory.path(), options()).expect("it opens with checkpoints of today");
    let item = store.get(&key("nodes", "", "n")).expect("it is there");
    assert_eq!(&*item.value, b"newer 19", "version {version}");
}

/// What this release writes reads back; and, with `CORACLE_WRITE_GOLDEN` set, after a change of
/// format, it becomes the golden files of the new version.
#[test]
fn what_is_written_reads_alike() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Embedded::open(directory.path(), options()).expect("it opens");
    write(&store);
    check(&store);
    drop(store);
    if std::env::var_os("CORACLE_WRITE_GOLDEN").is_some() {
        make_golden_files(directory.path());
    }
    check(&Embedded::open(directory.path(), options()).expect("it opens"));
}

/// Never over existing ones.
fn make_golden_files(written: &Path) {
    let target = golden(NEWEST);
    assert!(!target.exists(), "{} is there already", target.display());
    fs::create_dir_all(&target).expect("made");
    for name in ["journal.0", "journal.1", "store.redb", "secret.key"] {
        let bytes = fs::read(written.join(name)).expect("it was written");
        let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let mut trimmed = (bytes.len() as u64).to_le_bytes().to_vec();
        trimmed.extend_from_slice(&bytes[..used]);
        let (name, bytes) = match bytes.len() {
            0..1024 => (name.to_string(), bytes),
            _ => (format!("{name}.trimmed"), trimmed),
        };
        fs::write(target.join(name), bytes).expect("written");
    }
}
