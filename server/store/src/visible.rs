//! What readers share with the one who commits: the image, its revision, and who waits for more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use event_listener::Event as Waiters;

use crate::image::Image;
use crate::{BoxFuture, Revision};

/// The visible state of a backend. Readers hold the lock for the time of one read in memory;
/// nobody ever holds it across a disk operation.
pub(crate) struct Visible {
    image: RwLock<Image>,
    /// The image's revision, readable without the lock.
    revision: AtomicU64,
    waiters: Waiters,
}

impl Visible {
    pub(crate) fn new(image: Image) -> Visible {
        Visible { revision: AtomicU64::new(image.revision().0), image: RwLock::new(image), waiters: Waiters::new() }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Image> {
        // The image is changed by whole commits whose steps do not panic; a poisoned lock only
        // says that some reader's thread died.
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the image, then publishes its revision and wakes who waits for it.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Image) -> T) -> T {
        let result = self.change(change);
        self.announce();
        result
    }

    /// Changes the image and publishes its revision; who waits for it sleeps until [`Visible::announce`].
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Image) -> T) -> T {
        let mut image: RwLockWriteGuard<'_, Image> = self.image.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut image);
        self.revision.store(image.revision().0, Ordering::Release);
        result
    }

    /// Wakes who waits for a newer revision.
    pub(crate) fn announce(&self) {
        self.waiters.notify(usize::MAX);
    }

    /// Changes what readers do not see: nobody is woken.
    pub(crate) fn amend(&self, change: impl FnOnce(&mut Image)) {
        change(&mut self.image.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    pub(crate) fn wait(&self, after: Revision) -> BoxFuture<'_, Revision> {
        Box::pin(async move {
            loop {
                let revision = self.revision();
                if revision > after {
                    return revision;
                }
                let listener = self.waiters.listen();
                if self.revision() > after {
                    continue;
                }
                listener.await;
            }
        })
    }
}
