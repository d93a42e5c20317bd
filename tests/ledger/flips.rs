//! A byte that the card gives back wrong: it is noticed, or it does no harm.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use coracle_agent::ledger::{Contents, Disk, Ledger};
use redb::StorageBackend;

use crate::steps::{after, differs, seal, step};

/// Every third byte of the first so many, where everything hangs by a few.
const HEADER: usize = 320;
/// And one of so many behind (a prime, so that it meets every place in a page's lay-out).
const STRIDE: usize = 211;

/// A file in memory.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn with<T>(&self, act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Disk for Memory {
    type Backend = Memory;

    fn open(&self) -> io::Result<Memory> {
        Ok(self.clone())
    }

    fn doubt(&self) {}

    fn doubted(&self) -> bool {
        false
    }

    fn trust(&self) -> io::Result<()> {
        Ok(())
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = offset as usize;
        self.with(|bytes| {
            out.copy_from_slice(bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|bytes| bytes.resize(len as usize, 0));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|bytes| bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data));
        Ok(())
    }
}

/// A ledger's file, closed in good order or not, and what it holds, last and before.
fn written(closed: bool) -> (Vec<u8>, [Contents; 2]) {
    let memory = Memory::default();
    let mut ledger = Ledger::open(memory.clone(), seal()).expect("a new ledger");
    let mut contents = [Contents::default(), Contents::default()];
    for number in 0..8 {
        let change = step(number);
        ledger.commit(&change).expect("a commit");
        contents = [after(contents[0].clone(), &change), contents[0].clone()];
    }
    if closed {
        ledger.close();
    }
    let bytes = memory.with(|bytes| bytes.clone());
    (bytes, contents)
}

/// What the child finds: `None` when it refuses the file or dies of it.
fn tried(bytes: Vec<u8>) -> Option<(Memory, Contents)> {
    let memory = Memory(Arc::new(Mutex::new(bytes)));
    let read = || Ledger::open(memory.clone(), seal()).and_then(|ledger| ledger.read()).ok();
    let contents = catch_unwind(AssertUnwindSafe(read)).ok().flatten()?;
    Some((memory, contents))
}

#[test]
fn a_flipped_byte_is_noticed_or_does_no_harm() {
    std::panic::set_hook(Box::new(|_| {}));
    let (mut noticed, mut harmless) = (0, 0);
    let mut broken = Vec::new();
    for closed in [true, false] {
        let (bytes, [contents, before]) = written(closed);
        let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
        for at in (0..HEADER).step_by(3).chain((HEADER..used).step_by(STRIDE)) {
            let mut bent = bytes.clone();
            bent[at] ^= 1 << (at % 8);
            match tried(bent) {
                None => noticed += 1,
                // After an unclean end a bent page of the last commit is as good as one that was never
                // written: that commit counts as not made, as if the power had gone before it.
                Some((_, found)) if !closed && found == before => noticed += 1,
                Some((_, found)) if found != contents => {
                    broken.push(at);
                    eprintln!("byte {at}, closed {closed}: {}", differs(&found, &contents));
                }
                Some((memory, _)) => {
                    harmless += 1;
                    if let Some(why) = works_on(memory, &contents) {
                        broken.push(at);
                        eprintln!("byte {at}, closed {closed}: {why}");
                    }
                }
            }
        }
    }
    drop(std::panic::take_hook());
    assert!(broken.is_empty(), "bytes that changed what the ledger holds: {broken:?}");
    assert!(noticed > 100 && harmless > 100, "{noticed} noticed, {harmless} harmless");
}

/// A ledger that was found sound takes changes, or ends its agent; the next start finds what was
/// acknowledged, or notices.
fn works_on(memory: Memory, contents: &Contents) -> Option<String> {
    let change = step(8);
    let next = after(contents.clone(), &change);
    let work = || Ledger::open(memory.clone(), seal()).and_then(|mut ledger| ledger.commit(&change)).is_ok();
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or(false);
    let (_, found) = tried(memory.with(|bytes| bytes.clone()))?;
    match done {
        true if found != next => Some("an acknowledged change is lost".into()),
        false if found != next && found != *contents => Some("a failed change is there by half".into()),
        _ => None,
    }
}
