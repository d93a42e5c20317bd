//! The ledger as the program opens it: tried in a child first, which a damaged file may end.

use std::path::Path;

use coracle_agent::ledger::{Change, Contents, open_or_refill};
use coracle_shared::ids::StoreUuid;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_coracle-agent"))
}

/// A ledger that holds one record, as a killed agent leaves it or as a stopped one does.
fn written(dir: &Path, closed: bool) -> Contents {
    let mut opened = open_or_refill(dir, program(), false).expect("a new ledger");
    let change = Change { store: Some(StoreUuid([1; 16])), ..Change::default() };
    opened.ledger.commit(&change).expect("a commit");
    let contents = opened.ledger.read().expect("contents");
    if closed {
        opened.ledger.close();
    } else {
        let bytes = std::fs::read(dir.join("ledger.redb")).expect("the file");
        drop(opened);
        std::fs::write(dir.join("ledger.redb"), bytes).expect("as it was before it was closed");
    }
    contents
}

#[test]
fn a_sound_ledger_passes_its_trial() {
    for closed in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let contents = written(dir.path(), closed);
        let opened = open_or_refill(dir.path(), program(), false).expect("it opens");
        assert_eq!(opened.moved_aside, None);
        assert_eq!(opened.contents, contents);
    }
}

/// Every page is bent in turn: the child may refuse the file or die of it; this process goes on.
#[test]
fn a_damaged_ledger_ends_the_child_and_is_moved_aside() {
    const PAGE: usize = 4096;
    let dir = tempfile::tempdir().expect("a directory");
    let contents = written(dir.path(), true);
    let file = dir.path().join("ledger.redb");
    let bytes = std::fs::read(&file).expect("the file");
    let (mut moved, mut died) = (0, 0);
    for page in bytes.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0)).map(|(n, _)| n) {
        let mut bent = bytes.clone();
        bent[page * PAGE..page * PAGE + 40].iter_mut().for_each(|byte| *byte ^= 0x5A);
        std::fs::write(&file, bent).expect("damage");
        let opened = open_or_refill(dir.path(), program(), false).expect("a ledger");
        match &opened.moved_aside {
            Some((aside, why)) => {
                assert!(aside.exists());
                assert_eq!(opened.contents, Contents::default());
                moved += 1;
                died += usize::from(!why.starts_with("exit status: 1:"));
            }
            None => assert_eq!(opened.contents, contents, "page {page}"),
        }
    }
    assert!(moved > 1, "{moved} moved aside, {died} of them by a child that died");
}
