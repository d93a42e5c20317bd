//! Subresources that are not a part of their object's own form: Scale, Binding, Eviction.

use coracle_shared::api::json::Parsed;
use coracle_shared::api::status::Status;
use coracle_shared::api::table::schema;
use coracle_shared::api::validate;
use coracle_store::{Commit, CommitError, Precondition};
use serde_json::{Value, json};

use super::{ATTEMPTS, Call, Deleted, Options, Writer, Written, broken, item_of, meta, put};
use crate::api::list::{self, resource};
use crate::api::object;
use crate::api::query::Query;
use crate::api::route::Target;
use crate::kinds::{View, selector};

/// The autoscaling/v1 Scale of a workload (in the row's form, with its `resourceVersion`).
pub fn scale_of(object: &Value) -> Value {
    let view = View(object);
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut status = json!({"replicas": view.number(&["status", "replicas"])});
    let words = selector(view.at(&["spec", "selector"]));
    if words != "<none>" {
        status["selector"] = words.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": view.number(&["spec", "replicas"])}, "status": status})
}

/// The workload that a changed Scale asks for.
pub fn scaled(object: &Value, mut scale: Parsed, mode: validate::Mode) -> Result<Parsed, Status> {
    let id = schema().kind("autoscaling", "v1", "Scale").expect("Scale is in the field table");
    validate::fields(id, &mut scale.value, &scale.duplicates, mode).map_err(|e| e.status("Scale", "v1"))?;
    let mut value = object.clone();
    // Left out means 0, as in every typed client's Scale.
    value["spec"]["replicas"] = View(&scale.value).number(&["spec", "replicas"]).into();
    for field in ["resourceVersion", "uid"] {
        let given = View(&scale.value).text(&["metadata", field]);
        if !given.is_empty() {
            value["metadata"][field] = given.into();
        }
    }
    Ok(Parsed { value, duplicates: Vec::new() })
}

impl Writer {
    /// Binds the pod of the call's target to a node.
    pub async fn bind(&self, call: &Call<'_>, uid: &str, node: &str) -> Result<Written, Status> {
        let kind = call.target.kind;
        for attempt in 1.. {
            let item = list::find(&*self.store, call.target)?;
            let old = object::decode(kind, &item.value, None);
            let new = bound(call.target, &old, uid, node, (self.clock)())?;
            let change = put(call, &item.key, Some(&old), &new);
            if call.dry_run {
                return Ok(Written { item: item_of(&change, item.revision), warnings: Vec::new() });
            }
            let commit = Commit::new().require(Precondition::At(item.key.clone(), item.revision));
            match self.store.commit(commit.change(change.clone())).await {
                Ok(revision) => return Ok(Written { item: item_of(&change, revision), warnings: Vec::new() }),
                Err(CommitError::Failed(_)) if attempt < ATTEMPTS => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Deletes the pod of the call's target as an Eviction asks.
    pub async fn evict(&self, call: &Call<'_>, eviction: &Value, query: &Query) -> Result<Deleted, Status> {
        let named = View(eviction).text(&["metadata", "name"]);
        if !named.is_empty() && named != call.target.name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = Options::parse(View(eviction).at(&["deleteOptions"]), query)?;
        options.dry_run |= call.dry_run;
        self.delete(call, &options).await
    }
}

/// The pod as it is on its node.
fn bound(target: &Target, old: &Value, uid: &str, node: &str, now: i64) -> Result<Value, Status> {
    let view = View(old);
    let conflict = |why: String| Status::conflict(resource(target.kind), &target.name, why);
    let known = view.text(&["metadata", "uid"]);
    if !uid.is_empty() && uid != known {
        return Err(Status::precondition(resource(target.kind), &target.name, "UID", uid, known));
    }
    if node.is_empty() {
        return Err(Status::bad_request("target.name is required"));
    }
    if view.has(&["metadata", "deletionTimestamp"]) {
        return Err(conflict(format!("pod {} is being deleted, cannot be assigned to a host", target.name)));
    }
    let assigned = view.text(&["spec", "nodeName"]);
    if !assigned.is_empty() {
        return Err(conflict(format!("pod {} is already assigned to node {assigned:?}", target.name)));
    }
    let mut new = old.clone();
    new["spec"]["nodeName"] = node.into();
    let scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": meta::timestamp(now)});
    let mut conditions = view.list(&["status", "conditions"]).to_vec();
    conditions.retain(|c| View(c).text(&["type"]) != "PodScheduled");
    conditions.push(scheduled);
    new["status"]["conditions"] = conditions.into();
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn a_scale_is_a_view_on_replicas() {
        let object = json!({"metadata": {"name": "d", "namespace": "a", "uid": "u", "resourceVersion": "4", "labels": {}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}, "status": {"replicas": 2}});
        let mut scale = scale_of(&object);
        assert_eq!(scale["metadata"], json!({"name": "d", "namespace": "a", "uid": "u", "resourceVersion": "4"}));
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=web"}));
        scale["spec"]["replicas"] = 5.into();
        let parsed = Parsed { value: scale, duplicates: Vec::new() };
        let wanted = scaled(&object, parsed, validate::Mode::Strict).expect("scaled").value;
        assert_eq!(wanted["spec"]["replicas"], 5);
        assert_eq!(wanted["spec"]["selector"], object["spec"]["selector"]);
    }

    #[test]
    fn a_pod_is_bound_once_and_only_while_it_stays() {
        let kind = kinds::by_resource("pods").expect("known");
        let target = Target { kind, namespace: "a".into(), name: "p".into(), sub: None };
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "status": {"conditions":
            [{"type": "PodScheduled", "status": "False"}]}});
        let done = bound(&target, &pod, "u", "n1", 0).expect("bound");
        assert_eq!(done["spec"]["nodeName"], "n1");
        assert_eq!(done["status"]["conditions"].as_array().map(Vec::len), Some(1));
        assert_eq!(bound(&target, &done, "u", "n2", 0).expect_err("bound already").code, 409);
        assert_eq!(bound(&target, &pod, "v", "n1", 0).expect_err("another pod").code, 409);
        let mut leaving = pod;
        leaving["metadata"]["deletionTimestamp"] = "t".into();
        assert_eq!(bound(&target, &leaving, "", "n1", 0).expect_err("leaving").code, 409);
    }
}
