//! Ledger tests: what is written is read back; a cut at every write leaves the state before or after.

use std::io;
use std::sync::{Arc, Mutex};

use coracle_shared::desired::{Body, DataItem, PodItem};
use coracle_shared::ids::Generation;
use coracle_shared::report::Phase;
use proptest::prelude::*;
use redb::StorageBackend;

use super::*;

/// A disk that forgets: writes since the last sync may be lost, singly.
#[derive(Debug, Default)]
struct Platter {
    /// What surely is on the disk.
    synced: Vec<u8>,
    /// What the program sees.
    seen: Vec<u8>,
    /// Writes since the last sync, in order.
    pending: Vec<(usize, Vec<u8>)>,
    /// Operations left until everything fails.
    fuel: Option<u64>,
    full: bool,
    doubted: bool,
    writes: u64,
}

#[derive(Clone, Debug, Default)]
struct FakeDisk(Arc<Mutex<Platter>>);

impl FakeDisk {
    fn with<T>(&self, f: impl FnOnce(&mut Platter) -> T) -> T {
        f(&mut self.0.lock().expect("no test panics while holding it"))
    }

    /// What the disk may hold after a power cut: each pending 512-byte sector that `lands` picks.
    fn after_cut(&self, lands: impl Fn(usize) -> bool) -> FakeDisk {
        self.with(|p| {
            let mut left = p.synced.clone();
            left.resize(left.len().max(p.seen.len()), 0);
            let mut sector = 0;
            for (offset, data) in &p.pending {
                for (at, part) in data.chunks(512).enumerate() {
                    let to = offset + at * 512;
                    if lands(sector) && to + part.len() <= left.len() {
                        left[to..to + part.len()].copy_from_slice(part);
                    }
                    sector += 1;
                }
            }
            let platter = Platter { synced: left.clone(), seen: left, ..Platter::default() };
            FakeDisk(Arc::new(Mutex::new(platter)))
        })
    }
}

impl Platter {
    fn burn(&mut self) -> io::Result<()> {
        self.writes += 1;
        match &mut self.fuel {
            Some(0) => Err(io::Error::other("cut")),
            Some(fuel) => {
                *fuel -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for FakeDisk {
    type Backend = FakeDisk;

    fn open(&self) -> io::Result<FakeDisk> {
        Ok(self.clone())
    }

    fn release_reserve(&self) {
        self.with(|p| p.full = false);
    }

    fn doubt(&self) {
        self.with(|p| p.doubted = true);
    }

    fn doubted(&self) -> bool {
        self.with(|p| p.doubted)
    }

    fn trust(&self) -> io::Result<()> {
        self.with(|p| p.doubted = false);
        Ok(())
    }
}

impl StorageBackend for FakeDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|p| p.seen.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("small");
        self.with(|p| {
            let part = p.seen.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(part);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|p| {
            p.burn()?;
            p.seen.resize(usize::try_from(len).expect("small"), 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|p| {
            p.burn()?;
            p.synced = p.seen.clone();
            p.pending.clear();
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("small");
        self.with(|p| {
            p.burn()?;
            if p.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            p.seen[at..at + data.len()].copy_from_slice(data);
            p.pending.push((at, data.to_vec()));
            Ok(())
        })
    }
}

fn seal() -> Seal {
    Seal::new(&[7; 32])
}

fn pod(n: u8) -> Item {
    codec::item(&Body::Pod(PodItem {
        uid: PodUid(format!("u-{n}")),
        namespace: "default".into(),
        name: format!("pod-{n}"),
        object: br#"{"spec":{"containers":[{"name":"a","image":"x","env":[{"name":"P","value":"hunter2"}]}]}}"#
            .to_vec(),
        stop: None,
    }))
}

fn secret() -> Item {
    let data = BTreeMap::from([("password".to_owned(), b"correct horse".to_vec())]);
    codec::item(&Body::Data(DataItem { secret: true, namespace: "default".into(), name: "s".into(), data }))
}

fn ended(n: u8) -> PodReport {
    PodReport {
        uid: PodUid(format!("u-{n}")),
        namespace: "default".into(),
        name: format!("pod-{n}"),
        phase: Phase::Succeeded,
        reason: String::new(),
        message: String::new(),
        host_ip: None,
        pod_ip: None,
        started_at: Some(1),
        initialized: true,
        ready: false,
        init_containers: Vec::new(),
        containers: Vec::new(),
        gone: false,
    }
}

fn head(revision: u64) -> Head {
    let generation = Generation { epoch: 1, revision };
    Head { head: SetHead { generation, ..SetHead::default() }, complete: true }
}

/// Changes as a node sees them: pods come, end, go.
fn changes() -> Vec<Change> {
    let node = SetKind::Node;
    vec![
        Change { store: Some(StoreUuid([9; 16])), ..Change::default() },
        Change { puts: vec![(node, pod(1)), (node, secret())], heads: vec![(node, head(1))], ..Change::default() },
        Change { puts: (2..20).map(|n| (node, pod(n))).collect(), heads: vec![(node, head(2))], ..Change::default() },
        Change { ended: vec![ended(2)], ..Change::default() },
        Change {
            deletes: vec![(node, pod(2).id), (node, pod(3).id)],
            forget: vec![PodUid("u-2".into())],
            heads: vec![(node, head(3))],
            ..Change::default()
        },
    ]
}

fn apply(contents: &mut Contents, change: &Change) {
    contents.store = change.store.or(contents.store);
    for (set, head) in &change.heads {
        *(if *set == SetKind::Node { &mut contents.node } else { &mut contents.shared }) = *head;
    }
    for (set, item) in &change.puts {
        contents.items.insert((*set, item.id.clone()), (item.hash, item.body.clone()));
    }
    for (set, id) in &change.deletes {
        contents.items.remove(&(*set, id.clone()));
    }
    for report in &change.ended {
        contents.ended.insert(report.uid.clone(), report.clone());
    }
    for uid in &change.forget {
        contents.ended.remove(uid);
    }
}

/// The contents after each prefix of the changes.
fn states() -> Vec<Contents> {
    let mut states = vec![Contents::default()];
    for change in changes() {
        let mut next = states.last().expect("the first").clone();
        apply(&mut next, &change);
        states.push(next);
    }
    states
}

#[test]
fn what_is_committed_is_read_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FileDisk::new(dir.path().join("ledger.redb"));
    let mut ledger = Ledger::open(disk.clone(), seal()).expect("a new ledger");
    for (change, want) in changes().iter().zip(&states()[1..]) {
        ledger.commit(change).expect("a commit");
        assert_eq!(&ledger.read().expect("contents"), want);
    }
    drop(ledger);
    let ledger = Ledger::open(disk.clone(), seal()).expect("the same ledger");
    assert_eq!(ledger.read().expect("contents"), states()[changes().len()]);
    drop(ledger);
    // Nothing readable of a Secret or of a pod's environment is in the file.
    let bytes = std::fs::read(disk.path()).expect("the file");
    for word in [b"correct horse".as_slice(), b"hunter2"] {
        assert!(!bytes.windows(word.len()).any(|w| w == word));
    }
    let other = Ledger::open(disk, Seal::new(&[8; 32])).expect("it opens");
    assert!(matches!(other.read(), Err(LedgerError::Seal { .. })), "but not with another key");
}

#[test]
fn a_second_agent_is_kept_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = FileDisk::new(dir.path().join("ledger.redb"));
    let _first = Ledger::open(disk.clone(), seal()).expect("a new ledger");
    assert!(matches!(Ledger::open(disk, seal()), Err(LedgerError::Io { what: "open", .. })));
}

#[test]
fn a_cut_at_every_write_leaves_before_or_after() {
    let (changes, states) = (changes(), states());
    let whole = FakeDisk::default();
    let mut ledger = Ledger::open(whole.clone(), seal()).expect("a new ledger");
    changes.iter().for_each(|c| ledger.commit(c).expect("a commit"));
    let total = whole.with(|p| p.writes);
    assert!(total > 20, "only {total} writes");
    for cut in 0..total {
        let disk = FakeDisk::default();
        disk.with(|p| p.fuel = Some(cut));
        let mut acknowledged = 0;
        let mut made = false;
        if let Ok(mut ledger) = Ledger::open(disk.clone(), seal()) {
            made = true;
            acknowledged = changes.iter().take_while(|c| ledger.commit(c).is_ok()).count();
        }
        for (name, pick) in [("none", 0), ("all", 1), ("odd", 2), ("thirds", 3)] {
            let left = disk.after_cut(|n| match pick {
                0 => false,
                1 => true,
                2 => n % 2 == 1,
                _ => n % 3 == 0,
            });
            let ledger = match Ledger::open(left, seal()) {
                Ok(ledger) => ledger,
                // It was never whole: an empty ledger is made in its place.
                Err(_) if !made => continue,
                Err(e) => panic!("cut {cut}/{total}, {name}: {e}"),
            };
            let got = ledger.read().expect("contents");
            let fits = got == states[acknowledged] || states.get(acknowledged + 1) == Some(&got);
            assert!(fits, "cut {cut}/{total}, {name}: {acknowledged} acknowledged");
        }
    }
}

#[test]
fn a_full_disk_gives_way_to_the_reserve() {
    let disk = FakeDisk::default();
    let mut ledger = Ledger::open(disk.clone(), seal()).expect("a new ledger");
    ledger.commit(&changes()[1]).expect("a commit");
    disk.with(|p| p.full = true);
    let removal = Change { deletes: vec![(SetKind::Node, pod(1).id)], ..Change::default() };
    ledger.commit(&removal).expect("the reserve is there for it");
    assert_eq!(ledger.read().expect("contents").items.len(), 1);
}

#[test]
fn an_error_does_not_end_the_ledger() {
    let disk = FakeDisk::default();
    let mut ledger = Ledger::open(disk.clone(), seal()).expect("a new ledger");
    ledger.commit(&changes()[1]).expect("a commit");
    disk.with(|p| p.fuel = Some(1));
    assert!(ledger.commit(&changes()[2]).is_err());
    disk.with(|p| p.fuel = None);
    ledger.commit(&changes()[2]).expect("the next one reopens it");
    assert_eq!(ledger.read().expect("contents").items.len(), 20);
}

#[test]
fn a_damaged_file_is_moved_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let none = std::path::Path::new("/nonexistent/coracle-agent");
    let opened = open_or_refill(dir.path(), none, false).expect("a new ledger");
    assert!(opened.moved_aside.is_none());
    drop(opened);
    std::fs::write(dir.path().join("ledger.redb"), vec![0x55; 100_000]).expect("damage");
    let opened = open_or_refill(dir.path(), none, false).expect("an empty ledger");
    let (aside, why) = opened.moved_aside.expect("it was moved");
    assert!(aside.exists() && !why.is_empty());
    assert_eq!(opened.contents, Contents::default());
}

#[test]
fn the_book_follows_the_disk() {
    let (book, first) = Book::new(states()[3].clone(), Default::default());
    assert!(first.pods && first.data["default"].len() == 1);
    assert_eq!(book.pods().pods.len(), 19);
    assert!(book.pods().complete);
    assert!(book.data(true, "default", "s").is_some() && book.data(false, "default", "s").is_none());

    let mut book = book;
    let generation = Generation { epoch: 1, revision: 9 };
    let change = book.stage(SetKind::Node, vec![pod(30)], vec![secret().id], Some((generation, true)));
    let publication = book.publish(change.clone());
    assert!(publication.pods && publication.data.len() == 1);
    assert_eq!(book.head(SetKind::Node), change.heads[0].1.head);
    let digest = coracle_shared::digest::of_set(book.index(SetKind::Node).iter().map(|(i, d)| (i, d)));
    assert_eq!(book.head(SetKind::Node).digest, digest);
    // Saying the same again changes nothing.
    let again = book.stage(SetKind::Node, vec![pod(30)], vec![], Some((generation, true)));
    assert_eq!(again.heads, change.heads);
}

#[test]
fn an_item_of_a_newer_release_is_kept_and_left_alone() {
    let (mut book, _) = Book::new(Contents::default(), Default::default());
    let body = vec![1, 99];
    let item = Item { id: ItemId("new/x".into()), hash: coracle_shared::digest::of_body(&body), body };
    let change = book.stage(SetKind::Node, vec![item], vec![], None);
    let publication = book.publish(change);
    assert_eq!(publication.unreadable.len(), 1);
    assert_eq!(book.index(SetKind::Node).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn seals_open_only_under_their_name(name in ".{1,20}", plain in proptest::collection::vec(any::<u8>(), 0..200)) {
        let sealed = seal().close(name.as_bytes(), plain.clone()).expect("sealed");
        prop_assert_eq!(seal().open(name.as_bytes(), &sealed), Ok(plain));
        prop_assert_eq!(seal().open(b"", &sealed), Err(SealError));
        let mut bent = sealed.clone();
        bent[sealed.len() / 2] ^= 1;
        prop_assert_eq!(seal().open(name.as_bytes(), &bent), Err(SealError));
    }
}
