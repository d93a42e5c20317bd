//! What `restartPolicy: Never` promises across a reboot: a container that ran is not run again.
//!
//! Such a start is noted on disk, synced, before it happens (`STATE/pods/UID/begun.json`, which goes
//! with the pod). After a reboot, when the note is all that is left, the run counts as ended with the
//! reason `ContainerStatusUnknown`, as the kubelet has it. Init containers may run again: they are
//! made for that. Pods of other policies need no note, and pay no sync.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use coracle_shared::ids::PodUid;
use coracle_shared::report::Exit;
use serde::{Deserialize, Serialize};

use super::Node;
use super::hands::container_id;
use crate::reconcile::fleet::Found;
use crate::reconcile::state::{Adopted, AdoptedContainer, SandboxInfo, Started};
use crate::reconcile::view::{PodView, RestartPolicy};
use crate::runtime::ContainerId;

const FILE: &str = "begun.json";
/// How a run shows that nobody saw end: the kubelet's code and reason.
const UNKNOWN_CODE: i32 = 137;
const UNKNOWN: &str = "ContainerStatusUnknown";

/// The runs of a pod that began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Begun {
    namespace: String,
    name: String,
    runs: BTreeMap<String, BegunRun>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct BegunRun {
    attempt: u32,
    image_ref: String,
    image_id: String,
}

/// Whether container `i` must not run a second time.
fn runs_once(view: &PodView, i: usize) -> bool {
    !view.is_init(i) && view.restart_policy(i) == RestartPolicy::Never
}

impl Node {
    fn begun_file(&self, uid: &PodUid) -> PathBuf {
        self.volumes.on_disk(uid).join(FILE)
    }

    /// Notes, for good, that container `i` is about to run, if that matters to its pod.
    pub(super) fn note_begin(&self, view: &PodView, i: usize, run: &super::prepare::RunRecord) -> io::Result<()> {
        let Some(container) = view.container(i).filter(|_| runs_once(view, i)) else { return Ok(()) };
        let path = self.begun_file(view.uid());
        let read = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Begun>(&bytes).ok());
        let mut begun = read.unwrap_or_default();
        begun.namespace.clone_from(&view.metadata.namespace);
        begun.name.clone_from(&view.metadata.name);
        let (image_ref, image_id) = (run.image_ref.clone(), run.image_id.clone());
        begun.runs.insert(container.name.clone(), BegunRun { attempt: run.attempt, image_ref, image_id });
        write_synced(&path, &serde_json::to_vec(&begun)?)
    }

    /// Pods that are desired, have not ended, and of which only the note is left.
    pub(super) fn lost_runs(&self, there: &BTreeSet<PodUid>) -> BTreeMap<PodUid, Found> {
        let pods = self.keeper.book().pods().pods;
        let going = pods.iter().filter(|(uid, desired)| desired.ended.is_none() && !there.contains(uid));
        let lost = |uid: &PodUid| {
            let begun: Begun = serde_json::from_slice(&fs::read(self.begun_file(uid)).ok()?).ok()?;
            let quarantined = self.keeper.book().is_quarantined(uid);
            Some((uid.clone(), begun.found(uid, quarantined)))
        };
        going.filter_map(|(uid, _)| lost(uid)).collect()
    }
}

impl Begun {
    fn found(self, uid: &PodUid, quarantined: bool) -> Found {
        let container = |(name, run): (String, BegunRun)| {
            let container_id = container_id(uid, &ContainerId { name: name.clone(), attempt: run.attempt });
            let exit = Exit {
                code: UNKNOWN_CODE,
                signal: None,
                reason: UNKNOWN.to_owned(),
                message: "the node was restarted while the container ran; it is not run a second time".to_owned(),
                started_at: 0,
                finished_at: 0,
                container_id: container_id.clone(),
            };
            AdoptedContainer {
                name,
                attempt: run.attempt,
                image_ref: run.image_ref,
                image_id: run.image_id,
                started: Started { container_id, started_at: 0 },
                exit: Some(exit),
                last: None,
            }
        };
        let containers = self.runs.into_iter().map(container).collect();
        let adopted = Adopted { sandbox: SandboxInfo::default(), started_at: 0, alive: false, containers };
        Found { namespace: self.namespace, name: self.name, quarantined, adopted }
    }
}

/// Whole under its name or not at all, also after a power cut.
fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let temp = path.with_extension("new");
    let mut file = File::create(&temp)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temp, path)?;
    File::open(dir)?.sync_all()?;
    // The pod's directory may be as new as the file.
    dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
