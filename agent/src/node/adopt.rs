//! Finding again what an earlier agent left running.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_shared::ids::PodUid;
use coracle_shared::report::Exit;
use serde::{Deserialize, Serialize};

use super::Node;
use super::hands::{container_id, exit_of, run_key, watch};
use super::prepare::RunRecord;
use crate::reconcile::fleet::Found;
use crate::reconcile::state::{Adopted, AdoptedContainer, SandboxInfo, Started};
use crate::runtime::{ContainerStatus, Error, Sandbox};

/// What the runtime keeps with a sandbox: whose it is.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    namespace: String,
    name: String,
}

pub(super) fn note(namespace: &str, name: &str) -> Vec<u8> {
    let note = Note { namespace: namespace.to_owned(), name: name.to_owned() };
    serde_json::to_vec(&note).expect("two strings are always JSON")
}

impl Node {
    /// Every sandbox that is there, and from now on what happens in it.
    ///
    /// # Errors
    /// The runtime cannot say what there is: then nothing may be started either.
    pub async fn adopt(self: &Arc<Self>) -> Result<BTreeMap<PodUid, Found>, Error> {
        let attached = self.network.attachments();
        let mut found = BTreeMap::new();
        for sandbox in self.runtime.adopt().await? {
            let uid = sandbox.uid().clone();
            let watch = watch(self, &sandbox);
            let pod_ip = attached.get(&uid).map(|a| a.ip);
            found.insert(uid.clone(), self.describe(&sandbox, SandboxInfo { pod_ip }).await);
            self.live(&uid, |live| {
                live.watch = Some(watch);
                live.sandbox = Some(sandbox);
            });
        }
        let (own, there) = (Arc::clone(self), found.keys().cloned().collect::<BTreeSet<_>>());
        let lost = self.blocking(move || {
            own.sweep(&there);
            own.lost_runs(&there)
        });
        found.extend(lost.await);
        Ok(found)
    }

    /// Removes directories of pods that nobody knows any more: of a removal that the card refused.
    fn sweep(&self, there: &BTreeSet<PodUid>) {
        let desired = self.keeper.book().pods();
        if !desired.complete {
            return;
        }
        for uid in self.volumes.pods().into_iter().filter(|u| !there.contains(u) && !desired.pods.contains_key(u)) {
            if let Err(e) = self.erase(&uid) {
                eprintln!("pod {uid}: what it left: {e}");
            }
        }
    }

    async fn describe(&self, sandbox: &Sandbox, info: SandboxInfo) -> Found {
        let note: Note = serde_json::from_slice(sandbox.note()).unwrap_or_default();
        let record = self.read_record(sandbox.uid());
        let mut latest: BTreeMap<String, ContainerStatus> = BTreeMap::new();
        for status in sandbox.containers() {
            let newer = latest.get(&status.id.name).is_none_or(|old| old.id.attempt < status.id.attempt);
            if newer {
                latest.insert(status.id.name.clone(), status);
            }
        }
        let mut containers = Vec::new();
        for (name, status) in latest {
            // A record of another run is one whose start never happened, or was not written down.
            let run = record.containers.get(&name).filter(|r| r.attempt == status.id.attempt).cloned();
            containers.push(self.describe_run(sandbox, &status, run.unwrap_or_default()).await);
        }
        Found {
            namespace: note.namespace,
            name: note.name,
            quarantined: self.keeper.book().is_quarantined(sandbox.uid()),
            adopted: Adopted { sandbox: info, started_at: sandbox.created_at(), alive: sandbox.is_alive(), containers },
        }
    }

    async fn describe_run(&self, sandbox: &Sandbox, status: &ContainerStatus, run: RunRecord) -> AdoptedContainer {
        let exit = exit_of(sandbox, status).await;
        if exit.is_none() {
            self.live(sandbox.uid(), |live| live.runs.insert(run_key(&status.id), async_channel::bounded(1)));
        }
        AdoptedContainer {
            name: status.id.name.clone(),
            attempt: status.id.attempt,
            image_ref: run.image_ref,
            image_id: run.image_id,
            started: Started { container_id: container_id(sandbox.uid(), &status.id), started_at: status.started_at },
            exit,
            last: run.last.map(Exit::from),
        }
    }
}
