//! Which pods were in work when the agent died: a pod that two crashes were about is quarantined.
//!
//! Small files on the run directory's tmpfs (`work/UID`, `crashes/UID`): they survive the agent and
//! cost the disk nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coracle_shared::ids::PodUid;

/// Crashes over one pod after which it is quarantined.
const CRASHES: u32 = 2;

/// The pods that jobs are running for.
#[derive(Debug)]
pub struct Work {
    dir: PathBuf,
    /// Jobs in flight for each pod.
    jobs: BTreeMap<PodUid, u32>,
    crashed: BTreeSet<PodUid>,
}

impl Work {
    /// Counts what an earlier agent left in work as one crash each. Gives the pods to quarantine.
    ///
    /// # Errors
    /// The directories cannot be made or read.
    pub fn open(runtime: &Path) -> io::Result<(Self, BTreeSet<PodUid>)> {
        let mut work = Work { dir: runtime.to_owned(), jobs: BTreeMap::new(), crashed: BTreeSet::new() };
        fs::create_dir_all(runtime.join("work"))?;
        fs::create_dir_all(runtime.join("crashes"))?;
        let mut quarantined = BTreeSet::new();
        for entry in fs::read_dir(runtime.join("work"))? {
            let uid = PodUid(entry?.file_name().to_string_lossy().into_owned());
            fs::write(work.crashes(&uid), (work.count(&uid) + 1).to_string())?;
            fs::remove_file(work.mark(&uid))?;
        }
        for entry in fs::read_dir(runtime.join("crashes"))? {
            let uid = PodUid(entry?.file_name().to_string_lossy().into_owned());
            if work.count(&uid) >= CRASHES {
                quarantined.insert(uid.clone());
            }
            work.crashed.insert(uid);
        }
        Ok((work, quarantined))
    }

    /// A job for the pod begins.
    pub fn begin(&mut self, uid: &PodUid) {
        let jobs = self.jobs.entry(uid.clone()).or_default();
        *jobs += 1;
        if *jobs == 1 {
            // Without the mark a crash is not counted; the job is worth more than the count.
            let _ = fs::File::create(self.mark(uid));
        }
    }

    /// A job for the pod is done, which the agent has survived.
    pub fn end(&mut self, uid: &PodUid) {
        if let Some(jobs) = self.jobs.get_mut(uid) {
            *jobs -= 1;
            if *jobs == 0 {
                self.jobs.remove(uid);
                let _ = fs::remove_file(self.mark(uid));
            }
        }
        if self.crashed.remove(uid) {
            let _ = fs::remove_file(self.crashes(uid));
        }
    }

    /// The agent ends in good order: nothing that is in work has crashed it.
    pub fn close(&mut self) {
        for uid in std::mem::take(&mut self.jobs).into_keys() {
            let _ = fs::remove_file(self.mark(&uid));
        }
    }

    fn mark(&self, uid: &PodUid) -> PathBuf {
        self.dir.join("work").join(&uid.0)
    }

    fn crashes(&self, uid: &PodUid) -> PathBuf {
        self.dir.join("crashes").join(&uid.0)
    }

    fn count(&self, uid: &PodUid) -> u32 {
        fs::read_to_string(self.crashes(uid)).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_crashes_over_a_pod_quarantine_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (bad, good) = (PodUid("bad".into()), PodUid("good".into()));
        for round in 0..2 {
            let (mut work, quarantined) = Work::open(dir.path()).expect("open");
            assert!(quarantined.is_empty(), "round {round}");
            work.begin(&good);
            work.begin(&bad);
            work.begin(&bad);
            work.end(&good);
            // The agent dies here.
        }
        let (mut work, quarantined) = Work::open(dir.path()).expect("open");
        assert_eq!(quarantined, BTreeSet::from([bad.clone()]));
        // A job that is survived clears the pod.
        work.begin(&bad);
        work.end(&bad);
        let (mut work, quarantined) = Work::open(dir.path()).expect("open");
        assert!(quarantined.is_empty());
        work.begin(&bad);
        work.close();
        assert!(Work::open(dir.path()).expect("open").0.crashed.is_empty(), "a good end is no crash");
    }
}
