//! What a group of waiting commits comes to: a pure plan over the image.
//!
//! Commits of a group see the ones before them in it. Nothing of a plan is visible before its
//! frame is on disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::image::{self, Image};
use crate::{Change, Class, Commit, CommitError, Key, Revision};

/// What an update in place may add to an object and still work from the reserve of a full disk:
/// the marks of a deletion, a condition, a removed finalizer.
const FRUGAL_GROWTH: usize = 1024;

/// What becomes of one commit if its group gets to the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It happens at this revision.
    Apply(Revision),
    /// It changes nothing; the newest revision at its turn.
    Nothing(Revision),
    Refuse(CommitError),
}

/// The plan of a group.
#[derive(Debug)]
pub(crate) struct Plan {
    /// One for each commit, in order.
    pub verdicts: Vec<Verdict>,
    /// Some of it must survive a power cut before it is acknowledged.
    pub durable: bool,
    /// Resources with volatile puts.
    pub volatile: BTreeSet<Arc<str>>,
    /// The next free revision.
    pub next: u64,
}

/// What the group has made of a key so far.
struct Planned {
    revision: Revision,
    stored: bool,
    size: usize,
}

struct Planner<'a> {
    image: &'a Image,
    planned: HashMap<Key, Option<Planned>>,
    full: Option<&'a CommitError>,
    plan: Plan,
    newest: Revision,
}

/// Plans a group whose first revision is `next`. With `full` the disk has only its reserve left, and
/// it is the answer to what would need more.
pub(crate) fn plan<'a>(
    image: &Image,
    commits: impl Iterator<Item = &'a Commit>,
    next: u64,
    full: Option<&CommitError>,
) -> Plan {
    let plan = Plan { verdicts: Vec::new(), durable: false, volatile: BTreeSet::new(), next };
    let newest = image.revision();
    let mut planner = Planner { image, planned: HashMap::new(), full, plan, newest };
    for commit in commits {
        let verdict = planner.verdict(commit);
        planner.plan.verdicts.push(verdict);
    }
    planner.plan
}

impl Planner<'_> {
    fn verdict(&mut self, commit: &Commit) -> Verdict {
        let holds = image::check(&commit.preconditions, |key| self.now(key).map(|row| row.revision));
        if let Err(error) = holds {
            return Verdict::Refuse(error);
        }
        let happens = |change: &Change| matches!(change, Change::Put { .. }) || self.now(change.key()).is_some();
        if !commit.changes.iter().any(happens) {
            return Verdict::Nothing(self.newest);
        }
        if let Some(full) = self.full.filter(|_| !self.is_frugal(commit)) {
            return Verdict::Refuse(full.clone());
        }
        let revision = Revision(self.plan.next);
        self.plan.next += 1;
        self.newest = revision;
        self.adopt(commit, revision);
        Verdict::Apply(revision)
    }

    fn now(&self, key: &Key) -> Option<Planned> {
        match self.planned.get(key) {
            Some(planned) => planned.as_ref().map(|row| Planned { ..*row }),
            None => self.image.row(key).map(|row| Planned {
                revision: row.revision,
                stored: row.stored,
                size: row.value.len(),
            }),
        }
    }

    /// Whether the commit needs no more space on disk than there is in use already, or little.
    fn is_frugal(&self, commit: &Commit) -> bool {
        commit.changes.iter().all(|change| match change {
            Change::Put { key, value, .. } => self.now(key).is_some_and(|row| value.len() <= row.size + FRUGAL_GROWTH),
            Change::Delete { .. } => true,
        })
    }

    fn adopt(&mut self, commit: &Commit, revision: Revision) {
        let volatile = |change: &Change| matches!(change, Change::Put { class: Class::Volatile, .. });
        let durable = commit.changes.iter().any(|change| match change {
            Change::Put { class, .. } => *class == Class::Durable,
            Change::Delete { key, .. } => self.now(key).is_some_and(|row| row.stored),
        });
        for change in &commit.changes {
            if volatile(change) && !durable {
                self.plan.volatile.insert(change.key().resource.clone());
            }
            let planned = match change {
                Change::Put { key, value, .. } => {
                    let stored = durable || self.now(key).is_some_and(|row| row.stored);
                    Some(Planned { revision, stored, size: value.len() })
                }
                Change::Delete { .. } => None,
            };
            self.planned.insert(change.key().clone(), planned);
        }
        self.plan.durable |= durable;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Precondition;

    fn key(name: &str) -> Key {
        Key::new("pods", "default", name)
    }

    /// An image at revision 10 with `stored` on disk and `fleeting` only in memory, 10 bytes each.
    fn image() -> Image {
        let mut image = Image::new(Revision(1), Arc::new(|| Duration::ZERO));
        image.apply(Revision(9), &Commit::new().put(key("stored"), 1, [0; 10]).changes, true);
        image.apply(Revision(10), &Commit::new().put_volatile(key("fleeting"), 1, [0; 10]).changes, false);
        image
    }

    fn check(full: bool, commits: &[Commit], verdicts: &[Verdict], durable: bool) {
        let error = full_error();
        let plan = plan(&image(), commits.iter(), 11, full.then_some(&error));
        assert_eq!(plan.verdicts, verdicts);
        assert_eq!(plan.durable, durable);
    }

    fn full_error() -> CommitError {
        CommitError::Full("the disk is full".into())
    }

    fn apply(revision: u64) -> Verdict {
        Verdict::Apply(Revision(revision))
    }

    #[test]
    fn later_commits_see_earlier_ones() {
        let absent = Precondition::Absent(key("a"));
        check(
            false,
            &[
                Commit::new().create(key("a"), 1, *b"1"),
                Commit::new().create(key("a"), 1, *b"2"),
                Commit::new().replace(key("a"), Revision(11), 1, *b"3"),
                Commit::new().delete(key("none")),
                Commit::new().delete(key("a")),
                Commit::new().require(absent.clone()),
            ],
            &[
                apply(11),
                Verdict::Refuse(CommitError::Failed(absent)),
                apply(12),
                Verdict::Nothing(Revision(12)),
                apply(13),
                Verdict::Nothing(Revision(13)),
            ],
            true,
        );
    }

    #[test]
    fn what_needs_the_disk() {
        let put = Commit::new().put(key("a"), 1, *b"x");
        let volatile = Commit::new().put_volatile(key("stored"), 1, *b"x");
        check(false, std::slice::from_ref(&put), &[apply(11)], true);
        check(false, std::slice::from_ref(&volatile), &[apply(11)], false);
        check(false, &[Commit::new().delete(key("stored"))], &[apply(11)], true);
        check(false, &[Commit::new().delete(key("fleeting"))], &[apply(11)], false);
        check(false, &[volatile, Commit::new().delete(key("stored"))], &[apply(11), apply(12)], true);
        check(false, &[put, Commit::new().delete(key("a"))], &[apply(11), apply(12)], true);
        check(false, &[Commit::new()], &[Verdict::Nothing(Revision(10))], false);
    }

    #[test]
    fn a_full_disk_takes_deletes_and_small_updates() {
        let refused = || Verdict::Refuse(full_error());
        check(true, &[Commit::new().put(key("new"), 1, *b"x")], &[refused()], false);
        check(true, &[Commit::new().put(key("stored"), 1, vec![0; 10 + FRUGAL_GROWTH])], &[apply(11)], true);
        check(true, &[Commit::new().put(key("stored"), 1, vec![0; 11 + FRUGAL_GROWTH])], &[refused()], false);
        check(true, &[Commit::new().delete(key("stored"))], &[apply(11)], true);
    }
}
