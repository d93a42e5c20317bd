//! The writer: the one thread that changes the store.
//!
//! It takes all commits that wait, plans them as a group, appends one frame, syncs it once,
//! applies it to memory and answers. A group that is volatile as a whole skips the disk; what it
//! put rides on the next frame, so that whatever precedes an acknowledged durable commit survives
//! with it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_channel::Receiver;

use super::checkpoint::{self, Batch, CheckpointError, Meta};
use super::codec::{Encoder, row};
use super::disk::{Access, BLOCK, Disk};
use super::group::{Plan, Verdict, plan};
use super::journal::{Journal, JournalError};
use super::reply::{Answer, Reply};
use super::seal::{SealError, Sealer};
use crate::image::Image;
use crate::visible::Visible;
use crate::{Change, Clock, Commit, CommitError, Key, Revision};

/// Revisions per block. Each start begins a new block, so that revisions of volatile writes that
/// never reached the disk are not handed out twice.
pub(crate) const REVISION_BLOCK: u64 = 1_000_000;
/// A group takes no more commits beyond this many bytes: it bounds a frame together with
/// [`crate::MAX_COMMIT_BYTES`] and [`RIDE_BYTES`], below the size of a segment.
const GROUP_BYTES: usize = 1 << 20;
/// Buffer kept from one frame to the next: a frame of 64 writers fits, a rare large one is freed.
const KEPT_BYTES: usize = 256 << 10;
/// Commits of a group.
const GROUP_COMMITS: usize = 1024;
/// Volatile objects waiting for a ride, in bytes, before they cause a frame of their own.
const RIDE_BYTES: usize = 2 << 20;
/// Volatile objects wait this long for a ride before they cause a frame of their own.
const RIDE_WAIT: Duration = Duration::from_secs(3600);
/// What checkpointing one key may take of the disk: its page and a share of the pages above.
const CHECKPOINT_KEY_BYTES: u64 = 6 << 10;
/// Free space below which a disk counts as full beside what the next checkpoint needs.
const SLACK_BYTES: u64 = 1 << 20;
/// The file that holds the reserve.
pub(crate) const RESERVE_FILE: &str = "reserve";

/// A commit and who waits for it.
pub(crate) struct Submission {
    pub commit: Commit,
    pub reply: Reply,
}

/// A checkpoint being written on a thread of its own.
struct Running {
    thread: JoinHandle<Result<(), CheckpointError>>,
    covered: u64,
    keys: Vec<Key>,
    bytes: u64,
}

/// Keys whose newest frame no checkpoint has, and an upper bound of their bytes.
#[derive(Default)]
pub(crate) struct Dirty {
    pub keys: HashSet<Key>,
    pub bytes: u64,
}

impl Dirty {
    fn insert(&mut self, key: Key, bytes: usize) {
        self.bytes += bytes as u64;
        self.keys.insert(key);
    }

    fn take(&mut self, other: &mut Dirty) {
        self.keys.extend(other.keys.drain());
        self.bytes += std::mem::take(&mut other.bytes);
    }

    fn space(&self) -> u64 {
        self.bytes + self.keys.len() as u64 * CHECKPOINT_KEY_BYTES
    }
}

/// Volatile objects that are newer than the disk.
#[derive(Default)]
struct Pending {
    keys: HashMap<Key, usize>,
    bytes: usize,
    since: Option<Duration>,
}

impl Pending {
    fn insert(&mut self, key: Key, bytes: usize, now: Duration) {
        self.bytes += bytes;
        self.bytes -= self.keys.insert(key, bytes).unwrap_or(0);
        self.since.get_or_insert(now);
    }

    fn remove(&mut self, key: &Key) {
        self.bytes -= self.keys.remove(key).unwrap_or(0);
        if self.keys.is_empty() {
            self.since = None;
        }
    }

    /// Too many or too old to wait any longer.
    fn is_due(&self, now: Duration) -> bool {
        self.bytes > RIDE_BYTES || self.since.is_some_and(|since| since + RIDE_WAIT < now)
    }
}

/// What the writer and its checkpoints share.
#[derive(Clone)]
pub(crate) struct Base {
    pub disk: Arc<dyn Disk>,
    pub sealer: Arc<Sealer>,
    pub reserve_bytes: u64,
}

pub(crate) struct Writer {
    pub base: Base,
    pub clock: Clock,
    pub visible: Arc<Visible>,
    pub queue: Receiver<Submission>,
    pub journal: Journal,
    pub meta: Meta,
    pub next: u64,
    /// Keys in the segment being written.
    pub dirty: Dirty,
    /// Keys in full segments.
    pub full: Dirty,
    running: Option<Running>,
    pending: Pending,
    payload: Vec<u8>,
}

/// Why a group did not get to the disk.
enum GroupError {
    Journal(JournalError),
    Seal(SealError),
}

impl From<JournalError> for GroupError {
    fn from(error: JournalError) -> GroupError {
        GroupError::Journal(error)
    }
}

impl From<SealError> for GroupError {
    fn from(error: SealError) -> GroupError {
        GroupError::Seal(error)
    }
}

impl GroupError {
    fn answer(&self) -> CommitError {
        match self {
            GroupError::Journal(error) if error.source.kind() == std::io::ErrorKind::StorageFull => CommitError::Full,
            GroupError::Journal(error) => CommitError::Io(format!("{error}: check the disk").into()),
            GroupError::Seal(error) => CommitError::Io(format!("encrypting a Secret: {error}").into()),
        }
    }
}

impl Writer {
    #[allow(clippy::too_many_arguments, reason = "the parts of one struct, each of another type")]
    pub(crate) fn new(
        base: Base,
        clock: Clock,
        visible: Arc<Visible>,
        queue: Receiver<Submission>,
        journal: Journal,
        meta: Meta,
        (dirty, full): (Dirty, Dirty),
    ) -> Writer {
        let next = visible.revision().0 + 1;
        let (running, pending, payload) = (None, Pending::default(), Vec::new());
        Writer { base, clock, visible, queue, journal, meta, next, dirty, full, running, pending, payload }
    }

    /// Works until the queue is closed and empty, then writes what still waits for a ride.
    pub(crate) fn run(mut self) {
        self.start_checkpoint();
        while let Ok(first) = self.queue.recv_blocking() {
            let group = self.gather(first);
            self.poll_checkpoint();
            self.commit(group);
        }
        if !self.pending.keys.is_empty() {
            // Volatile objects may be lost; there is nobody left to tell.
            let _ = self.write_frame(&[], &Plan::empty(self.next));
        }
        self.finish_checkpoint();
    }

    fn gather(&self, first: Submission) -> Vec<Submission> {
        let mut bytes = first.commit.bytes();
        let mut group = vec![first];
        while bytes < GROUP_BYTES && group.len() < GROUP_COMMITS {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += next.commit.bytes();
            group.push(next);
        }
        group
    }

    fn commit(&mut self, group: Vec<Submission>) {
        let full = self.is_full();
        let plan = plan(&self.visible.read(), group.iter().map(|s| &s.commit), self.next, full);
        // Revisions of a group that fails are never used again: its frame may be on the disk.
        self.next = plan.next;
        let now = (self.clock)();
        let news = !plan.volatile.is_subset(&self.meta.volatile) || plan.next > self.meta.ceiling;
        let framed = plan.durable || news || self.pending.is_due(now);
        let written = if framed { self.write_frame(&group, &plan) } else { Ok(()) };
        match written {
            Ok(()) => self.apply(group, plan, framed, now),
            Err(error) => {
                let error = error.answer();
                group.into_iter().for_each(|submission| submission.reply.answer(Err(error.clone())));
            }
        }
    }

    /// Applies a group to memory and answers it.
    fn apply(&mut self, group: Vec<Submission>, plan: Plan, framed: bool, now: Duration) {
        let verdicts = || group.iter().zip(&plan.verdicts);
        let applied = || verdicts().filter(|(_, verdict)| matches!(verdict, Verdict::Apply(_)));
        if applied().next().is_some() {
            self.visible.write(|image| {
                for (submission, verdict) in verdicts() {
                    if let Verdict::Apply(revision) = verdict {
                        image.apply(*revision, &submission.commit.changes, framed);
                    }
                }
            });
        }
        let image = self.visible.read();
        for change in applied().flat_map(|(submission, _)| &submission.commit.changes) {
            match change {
                Change::Put { key, value, .. } if !framed => {
                    self.pending.insert(image.shared_key(key), value.len(), now);
                }
                Change::Put { .. } => {}
                Change::Delete { key, .. } => self.pending.remove(key),
            }
            if framed {
                self.dirty.insert(image.shared_key(change.key()), change.bytes());
            }
        }
        drop(image);
        for (submission, verdict) in group.into_iter().zip(plan.verdicts) {
            let answer: Answer = match verdict {
                Verdict::Apply(revision) | Verdict::Nothing(revision) => Ok(revision),
                Verdict::Refuse(error) => Err(error),
            };
            submission.reply.answer(answer);
        }
    }

    /// Writes one frame with what rides along and the changes of the group.
    fn write_frame(&mut self, group: &[Submission], plan: &Plan) -> Result<(), GroupError> {
        let ceiling = match plan.next > self.meta.ceiling {
            true => plan.next.next_multiple_of(REVISION_BLOCK) + REVISION_BLOCK,
            false => self.meta.ceiling,
        };
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        let result = self.encode(&mut payload, group, plan, ceiling).map_err(GroupError::from);
        let result = result.and_then(|()| self.append(&payload));
        payload.shrink_to(KEPT_BYTES);
        self.payload = payload;
        // Also what failed may be on the disk.
        let riders = std::mem::take(&mut self.pending);
        self.visible.mark_stored(riders.keys.keys());
        if let Err(error) = result {
            self.pending = riders;
            return Err(error);
        }
        self.meta.ceiling = ceiling;
        self.meta.volatile.extend(plan.volatile.iter().cloned());
        riders.keys.into_iter().for_each(|(key, bytes)| self.dirty.insert(key, bytes));
        Ok(())
    }

    fn encode(&self, payload: &mut Vec<u8>, group: &[Submission], plan: &Plan, ceiling: u64) -> Result<(), SealError> {
        let mut encoder = Encoder { bytes: payload, sealer: &self.base.sealer };
        if ceiling != self.meta.ceiling {
            encoder.ceiling(ceiling);
        }
        plan.volatile.difference(&self.meta.volatile).for_each(|resource| encoder.volatile(resource));
        let image = self.visible.read();
        for key in self.pending.keys.keys() {
            if let Some(row) = image.row(key) {
                encoder.put(key, row)?;
            }
        }
        drop(image);
        for (submission, verdict) in group.iter().zip(&plan.verdicts) {
            let Verdict::Apply(revision) = verdict else { continue };
            for change in &submission.commit.changes {
                match change {
                    Change::Put { key, schema, value, seal, .. } => {
                        encoder.put(key, &row(*revision, *schema, value, seal))?;
                    }
                    Change::Delete { key, .. } => encoder.delete(key, *revision),
                }
            }
        }
        Ok(())
    }

    fn append(&mut self, payload: &[u8]) -> Result<(), GroupError> {
        if !self.journal.is_sound() || !self.journal.has_room(payload.len()) {
            self.rotate()?;
        }
        self.journal.append(payload)?;
        coracle_shared::fault::crash("append-crash");
        Ok(())
    }

    /// Turns to the next segment; the one before must be in a checkpoint first.
    fn rotate(&mut self) -> Result<(), JournalError> {
        self.finish_checkpoint();
        if self.journal.newest_full().is_some() {
            self.start_checkpoint();
            self.finish_checkpoint();
        }
        self.journal.rotate()?;
        self.full.take(&mut self.dirty);
        self.start_checkpoint();
        Ok(())
    }

    /// Starts a checkpoint of the full segments, unless one is running or there are none.
    fn start_checkpoint(&mut self) {
        let Some(covered) = self.journal.newest_full() else { return };
        if self.running.is_some() {
            return;
        }
        let mut keys: Vec<Key> = self.full.keys.drain().collect();
        let bytes = std::mem::take(&mut self.full.bytes);
        keys.sort_unstable();
        let batch = self.batch(&keys, covered);
        let base = self.base.clone();
        let work = move || write_checkpoint(&base, &batch);
        match std::thread::Builder::new().name("store-checkpoint".into()).spawn(work) {
            Ok(thread) => self.running = Some(Running { thread, covered, keys, bytes }),
            Err(_) => self.full = Dirty { keys: keys.into_iter().collect(), bytes },
        }
    }

    /// The present rows of `keys` and of everything volatile, which then count as stored.
    fn batch(&self, keys: &[Key], covered: u64) -> Batch {
        let extra = self.pending.keys.keys().filter(|key| keys.binary_search(key).is_err());
        let mut all: Vec<&Key> = keys.iter().chain(extra).collect();
        all.sort_unstable();
        self.visible.mark_stored(all.iter().copied());
        let image = self.visible.read();
        let rows = all.into_iter().map(|key| (key.clone(), image.row(key).cloned())).collect();
        Batch { rows, meta: Meta { covered, ..self.meta.clone() } }
    }

    fn poll_checkpoint(&mut self) {
        if self.running.as_ref().is_some_and(|running| running.thread.is_finished()) {
            self.finish_checkpoint();
        }
    }

    /// Waits for the running checkpoint. One that failed is tried again at the next rotation.
    fn finish_checkpoint(&mut self) {
        let Some(Running { thread, covered, keys, bytes }) = self.running.take() else { return };
        match thread.join() {
            Ok(Ok(())) => {
                self.meta.covered = covered;
                self.journal.covered(covered);
            }
            Ok(Err(_)) | Err(_) => {
                self.full.keys.extend(keys);
                self.full.bytes += bytes;
            }
        }
    }

    /// Whether the disk has no room for what the next checkpoints will need.
    fn is_full(&self) -> bool {
        let running = self.running.as_ref();
        let running = running.map_or(0, |r| r.bytes + r.keys.len() as u64 * CHECKPOINT_KEY_BYTES);
        let needed = self.dirty.space() + self.full.space() + running + SLACK_BYTES;
        self.base.disk.free().is_ok_and(|free| free < needed)
    }
}

impl Plan {
    fn empty(next: u64) -> Plan {
        Plan { verdicts: Vec::new(), durable: false, volatile: BTreeSet::new(), next }
    }
}

impl Visible {
    fn mark_stored<'a>(&self, keys: impl Iterator<Item = &'a Key>) {
        let mut keys = keys.peekable();
        if keys.peek().is_some() {
            self.amend(|image: &mut Image| image.mark_stored(keys));
        }
    }
}

/// Takes the space that checkpoints of a full disk work from, or as much of it as there is.
pub(crate) fn provide_reserve(base: &Base) -> std::io::Result<()> {
    let file = base.disk.create(RESERVE_FILE, Access::Cached)?;
    let mut bytes = base.reserve_bytes;
    loop {
        match file.reserve(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull && bytes > BLOCK as u64 => bytes /= 2,
            Err(error) => {
                let _ = base.disk.remove(RESERVE_FILE);
                return Err(error);
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Writes a checkpoint, out of the reserve when the disk is full.
fn write_checkpoint(base: &Base, batch: &Batch) -> Result<(), CheckpointError> {
    let bytes: u64 = batch.rows.iter().map(|(_, row)| row.as_ref().map_or(0, |row| row.value.len() as u64)).sum();
    let needed = bytes + batch.rows.len() as u64 * CHECKPOINT_KEY_BYTES + SLACK_BYTES;
    let scarce = |needed| base.disk.free().is_ok_and(|free| free < needed);
    let mut released = scarce(needed);
    if released {
        base.disk.remove(RESERVE_FILE).map_err(CheckpointError::Io)?;
    }
    let mut result = checkpoint::write(&*base.disk, &base.sealer, batch);
    if !released && result.as_ref().is_err_and(CheckpointError::is_full) {
        released = true;
        base.disk.remove(RESERVE_FILE).map_err(CheckpointError::Io)?;
        result = checkpoint::write(&*base.disk, &base.sealer, batch);
    }
    if released {
        // Without it the store works on; the next checkpoint tries again.
        let _ = provide_reserve(base);
    }
    result
}

/// The first revision of the block after everything below `ceiling`.
pub(crate) fn next_block(ceiling: u64) -> Revision {
    Revision(ceiling.next_multiple_of(REVISION_BLOCK).max(REVISION_BLOCK))
}
