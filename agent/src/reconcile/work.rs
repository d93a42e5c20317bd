//! Which pods were in work when the agent died: a pod that two crashes were about is quarantined.
//!
//! What is in work lies in small files on the run directory's tmpfs (`work/UID`): they survive the
//! agent and cost the disk nothing. Crashes are rare and outlive a reboot: they are counted in
//! `crashes.json`, in the state directory and, for a card that cannot be written, beside the marks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use coracle_shared::ids::PodUid;

/// Crashes over one pod after which it is quarantined.
pub const CRASHES: u32 = 2;
/// How long such a pod is left alone, in milliseconds of the agent that found it: long enough for the
/// node's other pods to be served, short enough to survive two unrelated power cuts. Also how long an
/// agent has to live before work that it survives clears a pod.
pub const QUARANTINE: u64 = 600_000;
/// Pods whose crashes are remembered. More at once are no poison items but a broken machine.
const REMEMBERED: usize = 64;
/// The file with the counts.
const FILE: &str = "crashes.json";

/// The pods that jobs are running for.
#[derive(Debug)]
pub struct Work {
    dir: PathBuf,
    /// Where the counts lie: the first that reads is believed, all are written.
    counts_in: [PathBuf; 2],
    /// Jobs in flight for each pod.
    jobs: BTreeMap<PodUid, u32>,
    crashes: BTreeMap<PodUid, u32>,
}

impl Work {
    /// Counts what an earlier agent left in work as one crash each. Gives the pods to quarantine.
    ///
    /// # Errors
    /// The directory of the marks cannot be made or read.
    pub fn open(runtime: &Path, state: &Path) -> io::Result<(Self, BTreeSet<PodUid>)> {
        let dir = runtime.join("work");
        fs::create_dir_all(&dir)?;
        let counts_in = [runtime.join(FILE), state.join(FILE)];
        // A damaged or missing file costs two more crashes, no more.
        let read = |path: &PathBuf| serde_json::from_slice::<BTreeMap<String, u32>>(&fs::read(path).ok()?).ok();
        let counts = counts_in.iter().find_map(read).unwrap_or_default();
        let crashes = counts.into_iter().map(|(uid, count)| (PodUid(uid), count)).collect();
        let mut work = Work { dir, counts_in, jobs: BTreeMap::new(), crashes };
        let mut died = Vec::new();
        for entry in fs::read_dir(&work.dir)? {
            died.push(PodUid(entry?.file_name().to_string_lossy().into_owned()));
        }
        for uid in &died {
            *work.crashes.entry(uid.clone()).or_default() += 1;
        }
        if !died.is_empty() {
            work.bound();
            // Counted first: an agent that dies in between counts once too often, never too seldom.
            work.write_counts();
            died.iter().for_each(|uid| _ = fs::remove_file(work.mark(uid)));
        }
        let quarantined = work.crashes.iter().filter(|(_, n)| **n >= CRASHES).map(|(uid, _)| uid.clone()).collect();
        Ok((work, quarantined))
    }

    /// A job for the pod begins.
    pub fn begin(&mut self, uid: &PodUid) {
        let jobs = self.jobs.entry(uid.clone()).or_default();
        *jobs += 1;
        if *jobs == 1 {
            // Without the mark a crash is not counted; the job is worth more than the count.
            let _ = File::create(self.mark(uid));
        }
    }

    /// A job for the pod is done, `lived` milliseconds after the agent's start. A job survived early
    /// says nothing: what kills may be the next one.
    pub fn end(&mut self, uid: &PodUid, lived: u64) {
        if lived > QUARANTINE {
            self.pardon(uid);
        }
        if let Some(jobs) = self.jobs.get_mut(uid) {
            *jobs -= 1;
            if *jobs == 0 {
                self.jobs.remove(uid);
                let _ = fs::remove_file(self.mark(uid));
            }
        }
    }

    /// A person has changed the pod, or it is gone, or was long survived: its count begins anew.
    pub fn pardon(&mut self, uid: &PodUid) {
        if self.crashes.remove(uid).is_some() {
            self.write_counts();
        }
    }

    /// The agent ends in good order: nothing that is in work has crashed it.
    pub fn close(&mut self) {
        for uid in std::mem::take(&mut self.jobs).into_keys() {
            let _ = fs::remove_file(self.mark(&uid));
        }
    }

    /// Forgets the least suspected beyond the bound.
    fn bound(&mut self) {
        while self.crashes.len() > REMEMBERED {
            let Some(least) = self.crashes.iter().min_by_key(|(_, n)| **n).map(|(uid, _)| uid.clone()) else { return };
            self.crashes.remove(&least);
        }
    }

    fn write_counts(&self) {
        let counts: BTreeMap<&str, u32> = self.crashes.iter().map(|(uid, n)| (uid.0.as_str(), *n)).collect();
        let Ok(bytes) = serde_json::to_vec(&counts) else { return };
        for path in &self.counts_in {
            // One of the two is enough; with neither a pod only gets two crashes more.
            if let Err(e) = write_whole(path, &bytes) {
                eprintln!("{}: {e}", path.display());
            }
        }
    }

    fn mark(&self, uid: &PodUid) -> PathBuf {
        self.dir.join(&uid.0)
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("new");
    let mut file = File::create(&temp)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent over two directories, as `open` finds them.
    fn open(dir: &Path) -> (Work, Vec<String>) {
        fs::create_dir_all(dir.join("state")).expect("a directory");
        let (work, quarantined) = Work::open(&dir.join("run"), &dir.join("state")).expect("open");
        (work, quarantined.into_iter().map(|uid| uid.0).collect())
    }

    fn crash_over(dir: &Path, uid: &PodUid) {
        open(dir).0.begin(uid);
    }

    #[test]
    fn two_crashes_over_a_pod_quarantine_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let (bad, good) = (PodUid("bad".into()), PodUid("good".into()));
        for round in 0..2 {
            let (mut work, quarantined) = open(dir.path());
            assert!(quarantined.is_empty(), "round {round}");
            work.begin(&good);
            work.begin(&bad);
            work.begin(&bad);
            work.end(&good, 1);
            // A job that is survived early clears nothing.
            work.begin(&bad);
            work.end(&bad, 1);
            // The agent dies here.
        }
        let (mut work, quarantined) = open(dir.path());
        assert_eq!(quarantined, ["bad"]);
        work.begin(&bad);
        work.end(&bad, QUARANTINE + 1);
        let (mut work, quarantined) = open(dir.path());
        assert!(quarantined.is_empty());
        work.begin(&bad);
        work.close();
        assert!(open(dir.path()).0.crashes.is_empty(), "a good end is no crash");
    }

    #[test]
    fn counts_outlive_a_reboot_and_a_card_that_cannot_be_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let bad = PodUid("bad".into());
        (0..2).for_each(|_| crash_over(dir.path(), &bad));
        open(dir.path());
        fs::remove_dir_all(dir.path().join("run")).expect("a reboot empties the run directory");
        assert_eq!(open(dir.path()).1, ["bad"]);
        open(dir.path()).0.pardon(&bad);
        (0..2).for_each(|_| crash_over(dir.path(), &bad));
        // The card cannot hold the file.
        let file = dir.path().join("state/crashes.json");
        fs::remove_file(&file).expect("it was there");
        fs::create_dir(&file).expect("something in its place");
        assert_eq!(open(dir.path()).1, ["bad"]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let bad = PodUid("bad".into());
        (0..2).for_each(|_| crash_over(dir.path(), &bad));
        let mut work = open(dir.path()).0;
        (0..REMEMBERED * 2).for_each(|i| work.begin(&PodUid(format!("pod-{i}"))));
        let (work, quarantined) = open(dir.path());
        assert_eq!(work.crashes.len(), REMEMBERED);
        assert_eq!(quarantined, ["bad"], "the worst is not forgotten");
        assert_eq!(fs::read_dir(&work.dir).expect("the marks").count(), 0);
    }
}
