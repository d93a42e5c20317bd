//! A store in memory that behaves like etcd: the revision is assigned at commit, a commit holds at
//! most 100 changes, and there is no volatile class.

use crate::image::Image;
use crate::visible::Visible;
use crate::{
    BoxFuture, Clock, Commit, CommitError, Event, HistoryError, Item, Key, Page, Range, Revision, Store, StoreId,
};

/// The in-memory store, for tests and the simulator.
pub struct Memory {
    id: StoreId,
    visible: Visible,
}

impl Memory {
    /// An empty store at revision 1, as etcd starts.
    pub fn new(uuid: [u8; 16], clock: Clock) -> Memory {
        let image = Image::new(Revision(1), clock);
        Memory { id: StoreId { uuid, epoch: 1 }, visible: Visible::new(image) }
    }

    /// Commits without waiting for anything.
    pub fn commit_now(&self, commit: Commit) -> Result<Revision, CommitError> {
        commit.validate()?;
        self.visible.write(|image| {
            image.check(&commit.preconditions)?;
            let next = Revision(image.revision().0 + 1);
            image.apply(next, &commit.changes, false);
            Ok(image.revision())
        })
    }
}

impl Store for Memory {
    fn id(&self) -> StoreId {
        self.id
    }

    fn revision(&self) -> Revision {
        self.visible.revision()
    }

    fn get(&self, key: &Key) -> Option<Item> {
        self.visible.read().get(key)
    }

    fn list(&self, range: &Range) -> Result<Page, HistoryError> {
        self.visible.read().list(range)
    }

    fn count(&self, resource: &str) -> usize {
        self.visible.read().count(resource)
    }

    fn changes(&self, resource: Option<&str>, after: Revision, limit: usize) -> Result<Vec<Event>, HistoryError> {
        self.visible.read().changes(resource, after, limit)
    }

    fn wait(&self, after: Revision) -> BoxFuture<'_, Revision> {
        self.visible.wait(after)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Revision, CommitError>> {
        Box::pin(async move { self.commit_now(commit) })
    }
}
