//! A bound pod as its node needs it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use coracle_shared::codec;
use coracle_shared::desired::{Body, Item, PodItem};
use coracle_shared::ids::PodUid;
use serde_json::{Map, Value};

use super::{Reference, ReferenceKind};

/// Without a word from anybody, a pod has this long to stop.
const DEFAULT_GRACE: u64 = 30;
/// Of the metadata, what containers and the agent can see. What changes without meaning to them
/// (managedFields, resourceVersion) must not travel.
const METADATA: [&str; 6] = ["name", "namespace", "uid", "labels", "annotations", "deletionTimestamp"];

/// A pod's item, and what its containers need besides.
#[derive(Clone, Debug)]
pub struct CompiledPod {
    pub item: Arc<Item>,
    pub references: BTreeSet<Reference>,
    /// It is to stop.
    pub stops: bool,
    /// Where it is reached, once its node has said so.
    pub address: Option<Ipv4Addr>,
}

/// `None` for bytes that are no pod.
pub fn pod(bytes: &[u8]) -> Option<CompiledPod> {
    let mut object: Value = serde_json::from_slice(bytes).ok()?;
    let spec = object.get_mut("spec")?.take();
    let metadata = object.get("metadata")?;
    let text = |name: &str| metadata[name].as_str().unwrap_or_default().to_owned();
    let (uid, namespace, name) = (PodUid(text("uid")), text("namespace"), text("name"));
    if uid.0.is_empty() {
        return None;
    }
    let kept: Map<String, Value> =
        METADATA.iter().filter_map(|field| Some(((*field).to_owned(), metadata.get(*field)?.clone()))).collect();
    let stop = metadata.get("deletionTimestamp").map(|_| {
        let asked = metadata["deletionGracePeriodSeconds"].as_u64();
        let own = spec["terminationGracePeriodSeconds"].as_u64();
        asked.or(own).unwrap_or(DEFAULT_GRACE).min(u64::from(u32::MAX)) as u32
    });
    let references = references(&namespace, &spec);
    let address = object["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok());
    let stops = stop.is_some();
    let slim = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": kept, "spec": spec});
    let object = slim.to_string().into_bytes();
    let item = Arc::new(codec::item(&Body::Pod(PodItem { uid, namespace, name, object, stop })));
    Some(CompiledPod { item, references, stops, address })
}

/// Every ConfigMap, Secret and pull secret that the spec names.
fn references(namespace: &str, spec: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut add = |kind, name: &Value| {
        if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
            found.insert(Reference { kind, namespace: namespace.to_owned(), name: name.to_owned() });
        }
    };
    for volume in list(&spec["volumes"]) {
        add(ReferenceKind::ConfigMap, &volume["configMap"]["name"]);
        add(ReferenceKind::Secret, &volume["secret"]["secretName"]);
        for source in list(&volume["projected"]["sources"]) {
            add(ReferenceKind::ConfigMap, &source["configMap"]["name"]);
            add(ReferenceKind::Secret, &source["secret"]["name"]);
        }
    }
    for container in list(&spec["initContainers"]).iter().chain(list(&spec["containers"])) {
        for env in list(&container["env"]) {
            add(ReferenceKind::ConfigMap, &env["valueFrom"]["configMapKeyRef"]["name"]);
            add(ReferenceKind::Secret, &env["valueFrom"]["secretKeyRef"]["name"]);
        }
        for from in list(&container["envFrom"]) {
            add(ReferenceKind::ConfigMap, &from["configMapRef"]["name"]);
            add(ReferenceKind::Secret, &from["secretRef"]["name"]);
        }
    }
    for pull in list(&spec["imagePullSecrets"]) {
        add(ReferenceKind::Credential, &pull["name"]);
    }
    found
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
