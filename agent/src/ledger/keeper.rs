//! The ledger and its book together, as the link and the pods' driver use them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::Sender;
use coracle_shared::desired::{Item, ItemId, SetKind};
use coracle_shared::digest;
use coracle_shared::fault;
use coracle_shared::ids::Digest;
use coracle_shared::report::PodReport;
use coracle_shared::session::Apply;
use coracle_shared::wire::Heads;

use super::{Book, Change, Disk, FileDisk, Ledger, LedgerError, Publication};
use crate::link::{BoxFuture, Desired};
use crate::trace;

/// Batches of one set are gathered up to this many bytes, so that a set of usual size is one
/// transaction and one sync.
const GATHER_BYTES: usize = 1 << 20;

/// Cheap to clone.
#[derive(Debug)]
pub struct Keeper<D: Disk = FileDisk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for Keeper<D> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<D: Disk> {
    /// Held while a change is being written; the book is never locked over it.
    ledger: Mutex<Ledger<D>>,
    book: Mutex<Book>,
    gathered: Mutex<[Gathered; 2]>,
    published: Sender<Publication>,
    /// The last commit failed, for this reason.
    failing: Mutex<Option<String>>,
}

/// Batches of a set that are not on disk yet.
#[derive(Debug, Default)]
struct Gathered {
    puts: BTreeMap<ItemId, Item>,
    deletes: Vec<ItemId>,
    bytes: usize,
}

impl Gathered {
    fn take_in(&mut self, puts: Vec<Item>, deletes: Vec<ItemId>) {
        for id in deletes {
            self.puts.remove(&id);
            self.bytes += id.0.len();
            self.deletes.push(id);
        }
        for item in puts {
            self.deletes.retain(|id| *id != item.id);
            self.bytes += item.body.len();
            self.puts.insert(item.id.clone(), item);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is changed by halves under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disk + Send + 'static> Keeper<D> {
    /// `published` takes what changed, after it is on disk.
    pub fn new(ledger: Ledger<D>, book: Book, published: Sender<Publication>) -> Self {
        let shared = Shared {
            ledger: Mutex::new(ledger),
            book: Mutex::new(book),
            gathered: Mutex::default(),
            published,
            failing: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Reads the book. Not to be held over anything that waits.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.shared.book)
    }

    /// Why the ledger cannot be written, if the last change could not.
    pub fn failing(&self) -> Option<String> {
        lock(&self.shared.failing).clone()
    }

    /// Writes down that a pod ran to its end. Blocks.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn record(&self, report: PodReport) -> Result<(), LedgerError> {
        self.commit(Change { ended: vec![report], ..Change::default() })
    }

    /// Closes the ledger in good order; nothing can be written any more.
    pub fn close(&self) {
        lock(&self.shared.ledger).close();
    }

    /// Persists, then publishes. Blocks.
    fn commit(&self, change: Change) -> Result<(), LedgerError> {
        let mut ledger = lock(&self.shared.ledger);
        let persisting = trace::stage("persisting", "the ledger");
        let written = ledger.commit(&change);
        drop(persisting);
        *lock(&self.shared.failing) = written.as_ref().err().map(ToString::to_string);
        fault::crash("publish-crash");
        let change = if written.is_ok() { change } else { change.removals() };
        let publication = {
            let mut book = lock(&self.shared.book);
            // What failed before may have got to the disk after all: it is there, so it is true.
            let mut publication = ledger.take_found().map(|found| book.adopt(found)).unwrap_or_default();
            publication.merge(book.publish(change));
            publication
        };
        drop(ledger);
        // The receiver lives as long as the agent; at its end nobody acts any more.
        let _ = self.shared.published.send_blocking(publication);
        written
    }

    fn take(&self, change: Apply) -> Result<Digest, String> {
        let Apply { set, puts, deletes, generation, complete } = change;
        let (puts, deletes) = {
            let mut gathered = lock(&self.shared.gathered);
            let gathered = &mut gathered[set as usize];
            gathered.take_in(puts, deletes);
            if generation.is_none() && gathered.bytes < GATHER_BYTES {
                return Ok(Digest::default());
            }
            let gathered = std::mem::take(gathered);
            (gathered.puts.into_values().collect(), gathered.deletes)
        };
        let staged = self.book().stage(set, puts, deletes, generation.map(|g| (g, complete)));
        self.commit(staged).map_err(|e| e.to_string())?;
        Ok(self.digest(set))
    }

    fn digest(&self, set: SetKind) -> Digest {
        let index = self.book().index(set);
        digest::of_set(index.iter().map(|(id, hash)| (id, hash)))
    }
}

impl<D: Disk + Send + 'static> Desired for Keeper<D>
where
    D::Backend: Send,
{
    fn heads(&self) -> Heads {
        // A new session begins: what an earlier one did not finish is void.
        *lock(&self.shared.gathered) = Default::default();
        let mut heads = Heads::default();
        for set in [SetKind::Node, SetKind::Shared] {
            let mut head = self.book().head(set);
            let index = self.book().index(set);
            if head.generation != Default::default() || !index.is_empty() {
                head.digest = digest::of_set(index.iter().map(|(id, hash)| (id, hash)));
            }
            *heads.of_mut(set) = head;
        }
        heads
    }

    fn index(&self, set: SetKind) -> BoxFuture<'_, Result<Vec<(ItemId, Digest)>, String>> {
        // What is gathered will be there when it matters: the last batch is staged on top of it.
        let mut index: BTreeMap<ItemId, Digest> = self.book().index(set).into_iter().collect();
        let gathered = lock(&self.shared.gathered);
        gathered[set as usize].deletes.iter().for_each(|id| _ = index.remove(id));
        index.extend(gathered[set as usize].puts.values().map(|item| (item.id.clone(), item.hash)));
        drop(gathered);
        Box::pin(async move { Ok(index.into_iter().collect()) })
    }

    fn apply(&self, change: Apply) -> BoxFuture<'_, Result<Digest, String>> {
        let keeper = self.clone();
        Box::pin(smol::unblock(move || keeper.take(change)))
    }
}

impl<D: Disk> Drop for Shared<D> {
    fn drop(&mut self) {
        self.published.close();
    }
}
