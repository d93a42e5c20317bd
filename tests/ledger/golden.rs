//! The format on disk: ledgers written by earlier releases still open.
//!
//! `tests/golden/ledger/vN` holds a ledger of format N and its key. A new format adds a directory;
//! none is ever changed. Of the file only pages that are not zero are kept: its length, and then each
//! with its number in front.

use std::fs;
use std::path::{Path, PathBuf};

use coracle_agent::ledger::{Contents, FileDisk, Ledger, Seal};

use crate::steps::{after, differs, step};

const STEPS: u64 = 10;
const PAGE: usize = 4096;

fn golden(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("golden/ledger/v{version}"))
}

fn open(dir: &Path) -> Ledger {
    let seal = Seal::load(&dir.join("ledger.key")).expect("a key");
    Ledger::open(FileDisk::new(dir.join("ledger.redb")), seal).expect("it opens")
}

fn wanted() -> Contents {
    (0..STEPS).fold(Contents::default(), |contents, number| after(contents, &step(number)))
}

#[test]
fn version_1_opens() {
    let dir = tempfile::tempdir().expect("a directory");
    let packed = fs::read(golden(1).join("ledger.redb.pages")).expect("the golden file");
    let (length, pages) = packed.split_first_chunk::<8>().expect("a length goes before");
    let mut bytes = vec![0; u64::from_le_bytes(*length) as usize];
    for page in pages.chunks_exact(4 + PAGE) {
        let (number, page) = page.split_first_chunk::<4>().expect("a number goes before");
        let at = u32::from_le_bytes(*number) as usize * PAGE;
        bytes[at..at + PAGE].copy_from_slice(page);
    }
    fs::write(dir.path().join("ledger.redb"), bytes).expect("written");
    fs::copy(golden(1).join("ledger.key"), dir.path().join("ledger.key")).expect("copied");
    let mut ledger = open(dir.path());
    let found = ledger.read().expect("contents");
    assert!(found == wanted(), "{}", differs(&found, &wanted()));
    ledger.commit(&step(STEPS)).expect("it works on");
    assert_eq!(ledger.read().expect("contents"), after(wanted(), &step(STEPS)));
}

/// What this release writes reads back; and, with `CORACLE_WRITE_GOLDEN` set, after a change of
/// format, it becomes the golden ledger of the new version.
#[test]
fn what_is_written_reads_alike() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut ledger = open(dir.path());
    (0..STEPS).for_each(|number| ledger.commit(&step(number)).expect("a commit"));
    drop(ledger);
    if std::env::var_os("CORACLE_WRITE_GOLDEN").is_some() {
        make_golden(dir.path());
    }
    assert_eq!(open(dir.path()).read().expect("contents"), wanted());
}

/// Never over an existing one.
fn make_golden(written: &Path) {
    let target = golden(1);
    assert!(!target.exists(), "{} is there already", target.display());
    fs::create_dir_all(&target).expect("made");
    let bytes = fs::read(written.join("ledger.redb")).expect("it was written");
    let mut packed = (bytes.len() as u64).to_le_bytes().to_vec();
    for (number, page) in (0_u32..).zip(bytes.chunks_exact(PAGE)).filter(|(_, page)| page.iter().any(|b| *b != 0)) {
        packed.extend(number.to_le_bytes());
        packed.extend(page);
    }
    fs::write(target.join("ledger.redb.pages"), packed).expect("written");
    fs::copy(written.join("ledger.key"), target.join("ledger.key")).expect("copied");
}
