//! A simulated disk: what was synced survives a power cut, of the rest any sectors do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_store::embedded::disk::{Access, BLOCK, Disk, File};

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// A small random generator (SplitMix64), so that a seed replays.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Which unsynced sectors get to the disk before the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    Nothing,
    Everything,
    Any,
}

/// What goes wrong at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power goes: this and every later operation fails.
    Cut,
    /// This and the following operations, in all so many, fail with an I/O error.
    Errors(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    reserved: usize,
    /// Blocks that were ever written: a length alone takes no space.
    blocks: BTreeSet<usize>,
}

#[derive(Clone, Default)]
struct State {
    inodes: HashMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    /// The states of the directory since it was last synced; the first is durable.
    histories: Vec<BTreeMap<String, u64>>,
    next: u64,
    operations: u64,
    fault: Option<(u64, Fault)>,
    struck: bool,
    /// Syncs of files with a name that begins so: how many still work, and how many fail then.
    syncs: Option<(String, u64, u64)>,
    random: Option<Random>,
    capacity: Option<usize>,
    /// What others have written on the disk.
    foreign: usize,
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

struct SimFile {
    disk: SimDisk,
    inode: u64,
    access: Access,
}

impl SimDisk {
    pub fn new(seed: u64) -> SimDisk {
        let disk = SimDisk::default();
        disk.lock().random = Some(Random(seed));
        disk.lock().histories = vec![BTreeMap::new()];
        disk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the operation with this number, counted from now, go wrong.
    pub fn inject(&self, after: u64, fault: Fault) {
        let mut state = self.lock();
        state.fault = Some((state.operations + after, fault));
        state.struck = false;
    }

    /// Lets syncs of files with a name that begins so fail, after some that work.
    pub fn fail_syncs(&self, prefix: &str, after: u64, count: u64) {
        let mut state = self.lock();
        state.syncs = Some((prefix.to_owned(), after, count));
        state.struck = false;
    }

    pub fn heal(&self) {
        let mut state = self.lock();
        state.fault = None;
        state.syncs = None;
    }

    /// Whether the fault came to pass.
    pub fn struck(&self) -> bool {
        self.lock().struck
    }

    pub fn set_capacity(&self, bytes: usize) {
        self.lock().capacity = Some(bytes);
    }

    /// Lets others take all free space but so much.
    pub fn leave_free(&self, bytes: usize) {
        let mut state = self.lock();
        state.foreign = 0;
        let free = state.free();
        state.foreign = free.saturating_sub(bytes);
    }

    /// The length of a file without the zeros at its end.
    pub fn used(&self, name: &str) -> usize {
        let state = self.lock();
        let content = state.names.get(name).map_or(&[][..], |inode| &state.inodes[inode].now);
        content.len() - content.iter().rev().take_while(|byte| **byte == 0).count()
    }

    /// A copy of the disk on which a byte of a file has changed.
    pub fn flipped(&self, name: &str, offset: usize, mask: u8) -> SimDisk {
        let disk = self.after_cut(Survives::Everything, offset as u64);
        let mut state = disk.lock();
        let inode = state.names[name];
        let file = state.file(inode);
        file.now[offset] ^= mask;
        file.durable[offset] ^= mask;
        drop(state);
        disk
    }

    /// Whether any file's present content has these bytes.
    pub fn contains(&self, needle: &[u8]) -> bool {
        let state = self.lock();
        state.names.values().any(|inode| state.inodes[inode].now.windows(needle.len()).any(|w| w == needle))
    }

    /// The disk as the next process finds it when this one is killed: nothing is lost, nothing more is
    /// synced, and what the process still tries goes elsewhere.
    pub fn after_kill(&self) -> SimDisk {
        let disk = SimDisk(Arc::new(Mutex::new(self.lock().clone())));
        disk.heal();
        disk
    }

    /// The disk as it is found after the power went now.
    pub fn after_cut(&self, survives: Survives, seed: u64) -> SimDisk {
        let state = self.lock();
        let mut random = Random(seed);
        let last = state.histories.len() as u64 - 1;
        let kept = match survives {
            Survives::Nothing => 0,
            Survives::Everything => last,
            Survives::Any => random.below(last + 1),
        };
        let names = state.histories[kept as usize].clone();
        let mut inodes = HashMap::new();
        for inode in names.values() {
            let file = &state.inodes[inode];
            let content = after_cut(file, survives, &mut random);
            let blocks = file.blocks.clone();
            inodes.insert(*inode, Inode { now: content.clone(), durable: content, blocks, ..Inode::default() });
        }
        let disk = SimDisk::new(random.next());
        *disk.lock() = State {
            inodes,
            histories: vec![names.clone()],
            names,
            next: state.next,
            random: Some(random),
            capacity: state.capacity,
            foreign: state.foreign,
            ..State::default()
        };
        disk
    }
}

/// A file's durable bytes with some sectors of what was not synced laid over them.
fn after_cut(file: &Inode, survives: Survives, random: &mut Random) -> Vec<u8> {
    let mut content = file.durable.clone();
    write_some(&mut content, &file.pending, survives, random);
    content
}

fn write_some(content: &mut Vec<u8>, pending: &[Change], survives: Survives, random: &mut Random) {
    for change in pending {
        match change {
            _ if survives == Survives::Nothing => {}
            Change::Length(length) if survives == Survives::Everything || random.below(2) == 0 => {
                content.resize(*length, 0);
            }
            Change::Length(_) => {}
            Change::Bytes(offset, bytes) => {
                let mut at = 0;
                while at < bytes.len() {
                    let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
                    if survives == Survives::Everything || random.below(2) == 0 {
                        put(content, offset + at, &bytes[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl State {
    /// Counts an operation and lets it fail when it is its turn.
    fn step(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        let Some((at, fault)) = self.fault else { return Ok(()) };
        let fails = match fault {
            Fault::Cut => number >= at,
            Fault::Errors(count) => number >= at && number < at + count,
        };
        self.struck |= fails;
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    /// Whether it is the turn of a sync of this file to fail.
    fn sync_step(&mut self, inode: u64) -> io::Result<()> {
        let Some((prefix, after, count)) = &mut self.syncs else { return Ok(()) };
        let named = self.names.iter().any(|(name, file)| *file == inode && name.starts_with(&**prefix));
        match (named, *after, *count) {
            (false, ..) | (true, 0, 0) => return Ok(()),
            (true, 0, _) => *count -= 1,
            (true, ..) => {
                *after -= 1;
                return Ok(());
            }
        }
        self.struck = true;
        Err(io::Error::from_raw_os_error(5))
    }

    fn cut(&self) -> io::Result<()> {
        match self.fault {
            Some((at, Fault::Cut)) if self.operations > at => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }

    fn free(&self) -> usize {
        let used: usize = self.names.values().map(|inode| self.inodes[inode].space()).sum();
        self.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(used + self.foreign))
    }

    /// Takes the space of some bytes of a file.
    fn take(&mut self, inode: u64, offset: usize, length: usize) -> io::Result<()> {
        let free = self.free();
        let file = self.file(inode);
        let before = file.space();
        let blocks = offset / BLOCK..(offset + length).div_ceil(BLOCK);
        let new: Vec<usize> = blocks.filter(|block| !file.blocks.contains(block)).collect();
        file.blocks.extend(&new);
        if file.space() - before > free {
            file.blocks.retain(|block| !new.contains(block));
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn rename(&mut self) {
        self.histories.push(self.names.clone());
    }

    fn file(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an open file has an inode")
    }
}

impl Inode {
    fn space(&self) -> usize {
        (self.blocks.len() * BLOCK).max(self.reserved)
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, access: Access) -> io::Result<Option<Arc<dyn File>>> {
        let state = self.lock();
        state.cut()?;
        let file = |inode: &u64| Arc::new(SimFile { disk: self.clone(), inode: *inode, access }) as Arc<dyn File>;
        Ok(state.names.get(name).map(file))
    }

    fn create(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let mut state = self.lock();
        state.step()?;
        let inode = state.next;
        state.next += 1;
        state.inodes.insert(inode, Inode::default());
        state.names.insert(name.to_string(), inode);
        state.rename();
        Ok(Arc::new(SimFile { disk: self.clone(), inode, access }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_string(), inode);
        state.rename();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        if state.names.remove(name).is_some() {
            state.rename();
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.lock();
        state.cut()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.step()?;
        state.histories = vec![state.names.clone()];
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        Ok(self.lock().free() as u64)
    }

    fn place(&self) -> String {
        "sim:/store".to_owned()
    }
}

impl File for SimFile {
    fn length(&self) -> io::Result<u64> {
        let mut state = self.disk.lock();
        state.cut()?;
        Ok(state.file(self.inode).now.len() as u64)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.check_direct(offset, buffer);
        let mut state = self.disk.lock();
        state.cut()?;
        let now = &state.file(self.inode).now;
        let bytes = now.get(offset as usize..offset as usize + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_direct(offset, bytes);
        let mut state = self.disk.lock();
        state.take(self.inode, offset as usize, bytes.len())?;
        // A write that fails has still written some of it; `after_cut` chooses sectors.
        let result = state.step();
        let file = state.file(self.inode);
        put(&mut file.now, offset as usize, bytes);
        file.pending.push(Change::Bytes(offset as usize, bytes.to_vec()));
        result
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.step()?;
        let file = state.file(self.inode);
        file.now.resize(length as usize, 0);
        file.pending.push(Change::Length(length as usize));
        Ok(())
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        if (length as usize).saturating_sub(state.file(self.inode).space()) > state.free() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.step()?;
        state.file(self.inode).reserved = length as usize;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let cut = matches!(state.fault, Some((_, Fault::Cut)));
        let result = state.step().and_then(|()| state.sync_step(self.inode));
        let mut random = state.random.take().unwrap_or(Random(0));
        let file = state.file(self.inode);
        match &result {
            Ok(()) => {
                let pending = std::mem::take(&mut file.pending);
                write_some(&mut file.durable, &pending, Survives::Everything, &mut random);
            }
            // What a failed sync left unwritten counts as clean from then on, and no later
            // sync writes it, although reads show it.
            Err(_) if !cut => {
                file.durable = after_cut(file, Survives::Any, &mut random);
                file.pending.clear();
            }
            Err(_) => {}
        }
        state.random = Some(random);
        result
    }
}

impl SimFile {
    fn check_direct(&self, offset: u64, bytes: &[u8]) {
        if self.access == Access::Direct {
            assert!(
                offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK),
                "direct access is aligned"
            );
            assert!(bytes.as_ptr().addr().is_multiple_of(BLOCK), "so is its memory");
        }
    }
}
