//! A full disk: a real file system, of a few megabytes.

use std::path::Path;
use std::process::Command;

use coracle_agent::ledger::{Change, Contents, FileDisk, Ledger};
use coracle_shared::desired::SetKind;

use crate::steps::{after, differs, pod, seal, step};

/// A tmpfs of its own; it goes with the value.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Small {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(dir.path()).status();
        assert!(mounted.is_ok_and(|s| s.success()), "the tests mount file systems: run them as root");
        Small(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Others take what is left.
    fn fill(&self) {
        let others = std::fs::File::create(self.path().join("others")).expect("a file");
        let block = [1; 4096];
        while std::io::Write::write_all(&mut &others, &block).is_ok() {}
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg(self.path()).status();
        if !gone.is_ok_and(|s| s.success()) && !std::thread::panicking() {
            panic!("{} is still mounted", self.path().display());
        }
    }
}

#[test]
fn a_full_disk_takes_removals_and_recovers_by_itself() {
    let small = Small::new();
    let file = small.path().join("ledger.redb");
    let mut ledger = Ledger::open(FileDisk::new(&file), seal()).expect("a new ledger");
    let mut contents = Contents::default();
    for number in 0..2 {
        ledger.commit(&step(number)).expect("there is room");
        contents = after(contents, &step(number));
    }
    small.fill();
    // New pods need room of their own, sooner or later.
    let put = |n: u64| Change { puts: vec![(SetKind::Node, pod(1000 + n, n))], ..Change::default() };
    let mut refused = 0;
    for n in 0..20_000 {
        match ledger.commit(&put(n)) {
            Ok(()) => contents = after(contents, &put(n)),
            Err(_) => refused += 1,
        }
        if refused > 3 {
            break;
        }
    }
    assert!(refused > 3, "the disk is full, and the ledger does not notice");
    // What is there can go, all of it.
    let ids: Vec<_> = contents.items.keys().cloned().collect();
    for id in ids {
        let change = Change { deletes: vec![id], ..Change::default() };
        ledger.commit(&change).unwrap_or_else(|e| panic!("a removal on a full disk: {e}"));
        contents = after(contents, &change);
    }
    std::fs::remove_file(small.path().join("others")).expect("others go");
    ledger.commit(&step(1)).expect("there is room again");
    contents = after(contents, &step(1));
    drop(ledger);
    let ledger = Ledger::open(FileDisk::new(&file), seal()).expect("the same ledger");
    let found = ledger.read().expect("contents");
    assert!(found == contents, "{}", differs(&found, &contents));
}
