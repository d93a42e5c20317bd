//! Events as controllers and the scheduler tell them: one form, made in one place.

use serde_json::{Value, json};

use crate::submit::Write;
use crate::time::Millis;

/// The object that an Event is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    /// Empty for cluster scope.
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub struct Happening<'a> {
    pub component: &'a str,
    pub warning: bool,
    pub reason: &'a str,
    pub message: &'a str,
}

/// An Event about an object; those about objects of cluster scope lie in `default`.
pub fn event(about: &About<'_>, what: &Happening<'_>, now: Millis) -> Write {
    let namespace = if about.namespace.is_empty() { "default" } else { about.namespace };
    let at = now.seconds_text();
    let mut involved =
        json!({"apiVersion": about.api_version, "kind": about.kind, "name": about.name, "uid": about.uid});
    if !about.namespace.is_empty() {
        involved["namespace"] = about.namespace.into();
    }
    Write::Create {
        resource: "events",
        namespace: namespace.to_owned(),
        object: json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{}.", about.name), "namespace": namespace},
            "involvedObject": involved,
            "type": if what.warning { "Warning" } else { "Normal" },
            "reason": what.reason, "message": what.message, "count": 1,
            "firstTimestamp": at, "lastTimestamp": at, "source": {"component": what.component},
        }),
    }
}

/// What a workload's controller tells when it made or removed a pod: an Event about the owner that
/// `pod`, as the pipeline answered, names as its controller. `None` for every other write.
pub fn pod_made_or_removed(component: &str, write: &Write, pod: &Value, now: Millis) -> Option<Write> {
    let (reason, verb, namespace) = match write {
        Write::Create { resource: "pods", namespace, .. } => ("SuccessfulCreate", "Created", namespace),
        Write::Delete { resource: "pods", namespace, .. } => ("SuccessfulDelete", "Deleted", namespace),
        _ => return None,
    };
    let owner = pod["metadata"]["ownerReferences"].as_array()?.iter().find(|owner| owner["controller"] == true)?;
    let text = |field: &str| owner[field].as_str();
    let about = About {
        api_version: text("apiVersion")?,
        kind: text("kind")?,
        namespace,
        name: text("name")?,
        uid: text("uid")?,
    };
    let message = format!("{verb} pod: {}", pod["metadata"]["name"].as_str()?);
    Some(event(&about, &Happening { component, warning: false, reason, message: &message }, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(write: &Write, pod: &Value) -> Option<(String, String, Value)> {
        match pod_made_or_removed("c", write, pod, Millis(0))? {
            Write::Create { resource: "events", namespace, object } => {
                let text = |field: &str| object[field].as_str().expect("text").to_owned();
                Some((namespace, format!("{}: {}", text("reason"), text("message")), object["involvedObject"].clone()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_made_or_removed_is_told_of_its_controller() {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": true});
        let pod = json!({"metadata": {"name": "rs-x", "ownerReferences": [{"kind": "Other"}, owner]}});
        let create = Write::Create { resource: "pods", namespace: "n".into(), object: json!({}) };
        let involved =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "namespace": "n"});
        assert_eq!(told(&create, &pod), Some(("n".into(), "SuccessfulCreate: Created pod: rs-x".into(), involved)));
        let (resource, namespace, name, options) = ("pods", "n".into(), "rs-x".into(), Default::default());
        let delete = Write::Delete { resource, namespace, name, options };
        assert_eq!(told(&delete, &pod).expect("told").1, "SuccessfulDelete: Deleted pod: rs-x");
        assert_eq!(told(&create, &json!({"metadata": {"name": "alone"}})), None);
        let other = Write::Create { resource: "services", namespace: "n".into(), object: json!({}) };
        assert_eq!(told(&other, &pod), None);
    }

    #[test]
    fn what_has_no_namespace_is_told_in_default() {
        let about = About { api_version: "v1", kind: "Node", namespace: "", name: "n", uid: "u" };
        let what = Happening { component: "c", warning: true, reason: "R", message: "m" };
        let Write::Create { namespace, object, .. } = event(&about, &what, Millis(0)) else { panic!("a create") };
        assert_eq!((namespace.as_str(), &object["type"]), ("default", &json!("Warning")));
        assert!(object["involvedObject"].get("namespace").is_none());
    }
}
