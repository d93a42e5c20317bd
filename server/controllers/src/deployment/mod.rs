//! Deployments: from one template to the next without a gap.

mod plan;
mod rolling;
mod status;

use coracle_shared::submit::{Refusal, Write};
use coracle_store::{Event, Key};
use serde_json::Value;

use crate::driver::{Controller, Now, Outcome};
use crate::object::{
    Condition, array, condition, is_active, is_deleting, namespace, status_update, text, uid, with_condition,
};
use crate::world::{World, parse};

const RESOURCE: &str = "deployments.apps";
const SETS: &str = "replicasets.apps";
const API_VERSION: &str = "apps/v1";
const KIND: &str = "Deployment";
/// The label that keeps the pods of different templates apart.
const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const COMPONENT: &str = "deployment-controller";

pub struct Deployments;

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn dirty(&self, event: &Event, _world: &World, mark: &mut dyn FnMut(Key)) {
        match &*event.key.resource {
            RESOURCE => mark(event.key.clone()),
            SETS => {
                for set in [&event.old, &event.new].into_iter().flatten().filter_map(parse) {
                    let owner = array(&set, "/metadata/ownerReferences")
                        .iter()
                        .find(|o| o["controller"] == true && o["kind"] == KIND);
                    if let Some(owner) = owner {
                        mark(Key::new(RESOURCE, namespace(&set), text(owner, "/name")));
                    }
                }
            }
            _ => {}
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        world.keys(RESOURCE, None).into_iter().for_each(mark);
    }

    fn reconcile(&self, key: &Key, world: &World, now: Now) -> Outcome {
        let Some(deployment) = world.get(key).filter(|d| !is_deleting(d)) else { return Outcome::default() };
        let sets = world.owned(uid(&deployment), SETS);
        // Recreate waits until no pod of an old template is left.
        let old_pods = |set: &Value| world.owned(uid(set), "pods").iter().any(|pod| is_active(pod) || is_deleting(pod));
        let busy: Vec<bool> = if deployment["spec"]["strategy"]["type"] == "Recreate" {
            sets.iter().map(old_pods).collect()
        } else {
            vec![false; sets.len()]
        };
        plan::plan(&deployment, &sets, &busy, now)
    }

    fn refused(&self, key: &Key, refusal: &Refusal, world: &World, now: Now) -> Vec<Write> {
        let Some(deployment) = world.get(key) else { return Vec::new() };
        if condition(&deployment, "ReplicaFailure").is_some_and(|c| c["message"] == refusal.message.as_str()) {
            return Vec::new();
        }
        let failure =
            Condition { kind: "ReplicaFailure", status: "True", reason: "FailedCreate", message: &refusal.message };
        let mut status = deployment["status"].clone();
        status["conditions"] = with_condition(&deployment, &failure, now.wall).into();
        status_update(RESOURCE, &deployment, status).into_iter().collect()
    }
}
