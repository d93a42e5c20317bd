//! A byte that changed on the disk: the store opens with everything that was acknowledged, or it
//! refuses; it never opens with something else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use coracle_store::{Change, Class, Commit, Embedded, OpenError, Store};
use smol::block_on;

use crate::embedded::small;
use crate::sim::SimDisk;
use crate::suite::{key, range};

/// Everything in the store, in order.
fn all(store: &Embedded) -> Vec<(String, Vec<u8>)> {
    let pages = ["configmaps", "secrets", "pods"].map(|resource| store.list(&range(resource)).expect("now"));
    pages.into_iter().flat_map(|page| page.items).map(|i| (i.key.to_string(), i.value.to_vec())).collect()
}

/// A disk with a store of a checkpoint and a journal behind it, closed in order.
fn filled() -> (SimDisk, Vec<(String, Vec<u8>)>) {
    let disk = SimDisk::new(7);
    let store = Embedded::open_on(Arc::new(disk.clone()), small()).expect("an empty disk works");
    for number in 0..60 {
        let name = format!("object-{}", number % 40);
        let put = Commit::new().put(key("configmaps", "default", &name), 1, vec![number as u8; 600]);
        block_on(store.commit(put)).expect("there is room");
        let secret = Change::Put {
            key: key("secrets", "default", &format!("s{}", number % 5)),
            schema: 1,
            value: vec![b's'; 300].into(),
            class: Class::Durable,
            seal: Some("uid".into()),
        };
        block_on(store.commit(Commit::new().change(secret))).expect("there is room");
    }
    let everything = all(&store);
    drop(store);
    (disk, everything)
}

#[derive(Default)]
struct Seen {
    whole: usize,
    refused: usize,
    /// The database's own code gave up: what the child process is for.
    panicked: usize,
}

/// Opens a copy with a changed byte and compares.
fn check(disk: &SimDisk, name: &str, offset: usize, mask: u8, everything: &[(String, Vec<u8>)], seen: &mut Seen) {
    let flipped = disk.flipped(name, offset, mask);
    let opened = catch_unwind(AssertUnwindSafe(|| Embedded::open_on(Arc::new(flipped), small())));
    match opened {
        Err(_) => seen.panicked += 1,
        Ok(Err(OpenError::Damaged { .. } | OpenError::Format { .. } | OpenError::KeyChanged)) => seen.refused += 1,
        Ok(Err(error)) => panic!("byte {offset} of {name} ^ {mask:#x}: {error:?}"),
        Ok(Ok(store)) => {
            assert!(all(&store) == everything, "byte {offset} of {name} ^ {mask:#x} went unnoticed");
            seen.whole += 1;
        }
    }
}

#[test]
fn a_flipped_byte_is_harmless_or_noticed() {
    let (disk, everything) = filled();
    for name in ["store.redb", "journal.0", "journal.1", "secret.key"] {
        let (used, mut seen) = (disk.used(name), Seen::default());
        // The heads whole, the rest in strides that are no multiple of a page.
        let dense = used.min(300);
        let stride = (used / 700).max(1) | 1;
        let masks = |offset: usize| [1, 0xff, 1 << (offset % 8)][offset % 3];
        for offset in (0..dense).chain((dense..used).step_by(stride)) {
            check(&disk, name, offset, masks(offset), &everything, &mut seen);
        }
        println!("{name}: {used} bytes, {} whole, {} refused, {} panics", seen.whole, seen.refused, seen.panicked);
        assert!(seen.refused > 0 || name == "journal.0" || name == "journal.1", "{name}: nothing was ever refused");
    }
}
