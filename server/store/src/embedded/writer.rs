//! The writer: the one thread that changes the store.
//!
//! It takes all commits that wait, plans them as a group, appends one frame, syncs it once,
//! applies it to memory and answers. A group that is volatile as a whole skips the disk; what it
//! put rides on the next frame, so that whatever precedes an acknowledged durable commit survives
//! with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_channel::Receiver;

use super::checkpoint::{self, Batch, CheckpointError, Meta};
use super::codec::{Encoder, row};
use super::dirty::{Dirty, Pending, Retry};
use super::group::{Plan, Verdict, plan};
use super::journal::{Journal, JournalError, MAX_FULL};
use super::reply::{Answer, Reply};
use super::seal::SealError;
use super::space::{Base, CHECKPOINT_KEY_BYTES, write_checkpoint};
use crate::image::Image;
use crate::visible::Visible;
use crate::{Change, Clock, Commit, CommitError, Key, Revision};

/// Revisions per block. Each start begins a new block, so that revisions of volatile writes that
/// never reached the disk are not handed out twice.
pub(crate) const REVISION_BLOCK: u64 = 1_000_000;
/// A group takes no more commits beyond this many bytes: it bounds a frame together with
/// [`crate::MAX_COMMIT_BYTES`] and [`super::dirty::RIDE_BYTES`], below the size of a segment.
const GROUP_BYTES: usize = 1 << 20;
/// Buffer kept from one frame to the next: a frame of 64 writers fits, a rare large one is freed.
const KEPT_BYTES: usize = 256 << 10;
/// Commits of a group.
const GROUP_COMMITS: usize = 1024;

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
    retry: Retry,
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
        let (running, retry, pending, payload) = (None, Retry::default(), Pending::default(), Vec::new());
        Writer { base, clock, visible, queue, journal, meta, next, dirty, full, running, retry, pending, payload }
    }

    /// Works until the queue is closed and empty, then writes what still waits for a ride. The
    /// last frame may be empty: with one behind it, damage to the last commit cannot pass for a
    /// write that a power cut tore.
    pub(crate) fn run(mut self) {
        self.start_checkpoint();
        while let Ok(first) = self.queue.recv_blocking() {
            let group = self.gather(first);
            self.poll_checkpoint();
            self.commit(group);
        }
        // Volatile objects may be lost; there is nobody left to tell.
        let _ = self.write_frame(&[], &Plan::empty(self.next));
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
        let full = self.base.refusal(self.needed());
        let plan = plan(&self.visible.read(), group.iter().map(|s| &s.commit), self.next, full.as_ref());
        // Revisions of a group that fails are never used again: its frame may be on the disk.
        self.next = plan.next;
        let now = (self.clock)();
        let news = !plan.volatile.is_subset(&self.meta.volatile) || plan.next > self.meta.ceiling;
        let framed = plan.durable || news || self.pending.is_due(now);
        let written = if framed { self.write_frame(&group, &plan) } else { Ok(()) };
        match written {
            Ok(()) => self.apply(&group, &plan, framed, now),
            Err(error) => {
                let error = self.answer(&error);
                group.into_iter().for_each(|submission| submission.reply.answer(Err(error.clone())));
            }
        }
    }

    /// What the clients of a group are told that did not get to the disk.
    fn answer(&self, error: &GroupError) -> CommitError {
        match error {
            GroupError::Journal(error) => {
                let why = self.retry.why().map(|why| format!(" (the last checkpoint failed: {why})"));
                let what = format!("{error}{}", why.unwrap_or_default());
                match error.source.kind() {
                    std::io::ErrorKind::StorageFull => self.base.full(&what),
                    _ => self.base.broken(&error.source, &what),
                }
            }
            GroupError::Seal(error) => CommitError::Io(format!("encrypting a Secret: {error}").into()),
        }
    }

    /// Applies a group to memory and answers it. Who asked hears first, then who follows all
    /// changes, and the accounts come last: on a small machine each would wait for the other.
    fn apply(&mut self, group: &[Submission], plan: &Plan, framed: bool, now: Duration) {
        let verdicts = || group.iter().zip(&plan.verdicts);
        let applied = || verdicts().filter(|(_, verdict)| matches!(verdict, Verdict::Apply(_)));
        let changes = applied().next().is_some();
        if changes {
            self.visible.change(|image| {
                for (submission, verdict) in verdicts() {
                    if let Verdict::Apply(revision) = verdict {
                        image.apply(*revision, &submission.commit.changes, framed);
                    }
                }
            });
        }
        for (submission, verdict) in verdicts() {
            let answer: Answer = match verdict {
                Verdict::Apply(revision) | Verdict::Nothing(revision) => Ok(*revision),
                Verdict::Refuse(error) => Err(error.clone()),
            };
            submission.reply.answer(answer);
        }
        if changes {
            self.visible.announce();
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
        if self.start_checkpoint() {
            self.finish_checkpoint();
        }
        self.journal.rotate()?;
        self.full.take(&mut self.dirty);
        self.start_checkpoint();
        Ok(())
    }

    /// Starts a checkpoint of the full segments, unless there are none, one is running, or one has
    /// just failed; whether it did.
    fn start_checkpoint(&mut self) -> bool {
        let Some(covered) = self.journal.newest_full() else { return false };
        if self.running.is_some() || !self.retry.is_due((self.clock)()) {
            return false;
        }
        let mut keys: Vec<Key> = self.full.keys.drain().collect();
        let bytes = std::mem::take(&mut self.full.bytes);
        keys.sort_unstable();
        let batch = self.batch(&keys, covered);
        let base = self.base.clone();
        let work = move || write_checkpoint(&base, &batch);
        match std::thread::Builder::new().name("store-checkpoint".into()).spawn(work) {
            Ok(thread) => {
                self.running = Some(Running { thread, covered, keys, bytes });
                true
            }
            Err(error) => {
                self.full = Dirty { keys: keys.into_iter().collect(), bytes };
                self.checkpoint_failed(format!("starting its thread: {error}"));
                false
            }
        }
    }

    /// The present rows of `keys` and of everything volatile, which then count as stored; all rows
    /// when the file is not to be built upon.
    fn batch(&self, keys: &[Key], covered: u64) -> Batch {
        let extra = self.pending.keys.keys().filter(|key| keys.binary_search(key).is_err());
        let mut all: Vec<&Key> = keys.iter().chain(extra).collect();
        all.sort_unstable();
        self.visible.mark_stored(all.iter().copied());
        let image = self.visible.read();
        // Not knowing counts as a doubt: a file made anew is never wrong.
        let whole = checkpoint::is_doubted(&*self.base.disk).unwrap_or(true);
        let rows = match whole {
            true => image.rows().map(|(key, row)| (key, Some(row.clone()))).collect(),
            false => all.into_iter().map(|key| (key.clone(), image.row(key).cloned())).collect(),
        };
        Batch { rows, meta: Meta { covered, ..self.meta.clone() }, whole }
    }

    fn poll_checkpoint(&mut self) {
        if self.running.as_ref().is_some_and(|running| running.thread.is_finished()) {
            self.finish_checkpoint();
        }
        if self.retry.why().is_some() {
            self.start_checkpoint();
        }
    }

    /// Waits for the running checkpoint. One that failed is tried again after a pause.
    fn finish_checkpoint(&mut self) {
        let Some(Running { thread, covered, keys, bytes }) = self.running.take() else { return };
        let failure = match thread.join() {
            Ok(Ok(())) => {
                self.meta.covered = covered;
                self.journal.covered(covered);
                if self.retry.succeeded() {
                    (self.base.log)(&format!("store: {}: checkpoints work again", self.base.disk.place()));
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            // The panic itself was printed where it happened.
            Err(_) => "its thread panicked".to_owned(),
        };
        self.full.keys.extend(keys);
        self.full.bytes += bytes;
        self.checkpoint_failed(failure);
    }

    fn checkpoint_failed(&mut self, why: String) {
        let waiting = self.journal.waiting();
        let place = self.base.disk.place();
        let pause = self.retry.failed((self.clock)(), why.clone()).as_secs();
        (self.base.log)(&format!(
            "store: {place}: writing a checkpoint failed: {why}; {waiting} of {MAX_FULL} journal segments wait for one, \
             and when all do, writes are refused; it is tried again in {pause} s"
        ));
    }

    /// Bytes that the next checkpoints may take.
    fn needed(&self) -> u64 {
        let running = self.running.as_ref();
        let running = running.map_or(0, |r| r.bytes + r.keys.len() as u64 * CHECKPOINT_KEY_BYTES);
        self.dirty.space() + self.full.space() + running
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

/// The first revision of the block after everything below `ceiling`.
pub(crate) fn next_block(ceiling: u64) -> Revision {
    Revision(ceiling.next_multiple_of(REVISION_BLOCK).max(REVISION_BLOCK))
}
