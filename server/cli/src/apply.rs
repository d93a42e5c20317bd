//! `coracle apply`: brings objects to what manifests say, remembering what was said last.

use argh::FromArgs;
use coracle_shared::api::table::{Type, TypeId, schema};
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::discovery::{self, Resource};
use crate::error::Error;
use crate::manifest::{self, Object};
use crate::output;

/// What kubectl uses too, so that either may apply what the other did.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MERGE: &str = "application/merge-patch+json";

/// Create or update objects from manifests.
#[derive(FromArgs)]
#[argh(subcommand, name = "apply")]
pub struct Apply {
    /// manifest: a file, a directory or - (repeatable)
    #[argh(option, short = 'f')]
    filename: Vec<String>,
    /// namespace of objects that name none
    #[argh(option, short = 'n')]
    namespace: Option<String>,
}

impl Apply {
    pub fn run(self, client: &Client) -> Result<(), Error> {
        let objects = manifest::read(&self.filename)?;
        let resources = discovery::resources(client)?;
        let mut failed = 0;
        for object in objects {
            match apply(client, &resources, &object, self.namespace.as_deref()) {
                Ok(line) => output::print(&line)?,
                Err(error @ (Error::Unreachable(_) | Error::Closed)) => return Err(error),
                Err(error) => {
                    eprintln!("error: {}: {error}", object.origin);
                    failed += 1;
                }
            }
        }
        if failed == 0 { Ok(()) } else { Err(Error::Partly(failed)) }
    }
}

fn apply(client: &Client, resources: &[Resource], object: &Object, namespace: Option<&str>) -> Result<String, Error> {
    let resource = discovery::of_object(resources, object.text("/apiVersion"), object.text("/kind"))?;
    let name = object.text("/metadata/name");
    let namespace = match object.text("/metadata/namespace") {
        "" => namespace.unwrap_or(&client.config.namespace),
        own => own,
    };
    let collection = resource.path(Some(namespace));
    let path = format!("{collection}/{name}");
    let wanted = annotated(&object.value);
    let done = match client.get(&path) {
        Err(error) if error.is_not_found() => {
            client.post(&format!("{collection}?fieldManager=coracle&fieldValidation=Strict"), &wanted)?;
            "created"
        }
        Err(error) => return Err(error),
        Ok(live) => {
            let row = schema().kind(&resource.group, &resource.version, &resource.kind);
            let patch = patch(row, &last_applied(&live), &wanted, &live);
            let kind = if row.is_some() { STRATEGIC } else { MERGE };
            if patch == json!({}) {
                "unchanged"
            } else {
                let new = client.patch(&format!("{path}?fieldManager=coracle&fieldValidation=Strict"), kind, &patch)?;
                let same = new["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"];
                if same { "unchanged" } else { "configured" }
            }
        }
    };
    Ok(format!("{}/{name} {done}\n", qualified(resource)))
}

fn qualified(resource: &Resource) -> String {
    match resource.group.as_str() {
        "" => resource.singular.clone(),
        group => format!("{}.{group}", resource.singular),
    }
}

/// The manifest with itself, as compact JSON, in its annotation.
fn annotated(manifest: &Value) -> Value {
    let mut bare = manifest.clone();
    if let Some(annotations) = bare.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{bare}\n");
    let mut wanted = bare;
    let metadata = wanted["metadata"].as_object_mut().expect("a manifest has metadata.name");
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[LAST_APPLIED] = text.into();
    wanted
}

fn last_applied(live: &Value) -> Value {
    live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(json!({}))
}

/// The three-way patch: what the manifest says and the object lacks, and null (or `$patch: delete`)
/// for what the last manifest said and this one does not.
fn patch(row: Option<TypeId>, last: &Value, wanted: &Value, live: &Value) -> Value {
    let mut patch = objects(row, last, wanted, live);
    for identity in ["apiVersion", "kind", "status"] {
        patch.remove(identity);
    }
    Value::Object(patch)
}

fn objects(row: Option<TypeId>, last: &Value, wanted: &Value, live: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    for (name, value) in wanted.as_object().into_iter().flatten() {
        let field = row.and_then(|row| row.field(name));
        let inner = match field.map(|f| f.ty()) {
            Some(Type::Struct(row)) => Some(row),
            _ => None,
        };
        match value {
            Value::Object(_) if live[name].is_object() => {
                let nested = objects(inner, &last[name], value, &live[name]);
                if !nested.is_empty() {
                    patch.insert(name.clone(), Value::Object(nested));
                }
            }
            Value::Array(items) => {
                let key = field.and_then(|f| f.merge_key());
                if *value != live[name] {
                    patch.insert(name.clone(), list(key, &last[name], items));
                }
            }
            _ if *value != live[name] => {
                patch.insert(name.clone(), value.clone());
            }
            _ => {}
        }
    }
    for name in last.as_object().into_iter().flat_map(Map::keys) {
        if wanted.get(name).is_none() && live.get(name).is_some() {
            patch.insert(name.clone(), Value::Null);
        }
    }
    patch
}

/// A list of a patch: with a merge key its elements are merged, so those that were taken out of the
/// manifest are deleted by name.
fn list(key: Option<&str>, last: &Value, items: &[Value]) -> Value {
    let mut patch = items.to_vec();
    if let Some(key) = key {
        for old in last.as_array().into_iter().flatten() {
            if !old[key].is_null() && !items.iter().any(|item| item[key] == old[key]) {
                patch.push(json!({ key: old[key], "$patch": "delete" }));
            }
        }
    }
    Value::Array(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(last: Value, wanted: Value, live: Value, expect: Value) {
        let row = schema().kind("", "v1", "Service");
        assert!(row.is_some());
        assert_eq!(patch(row, &last, &wanted, &live), expect);
    }

    #[test]
    fn three_ways() {
        check(
            json!({}),
            json!({"spec": {"type": "NodePort"}}),
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1"}}),
            json!({"spec": {"type": "NodePort"}}),
        );
        check(
            json!({"spec": {"type": "NodePort"}}),
            json!({"spec": {}}),
            json!({"spec": {"type": "NodePort"}}),
            json!({"spec": {"type": null}}),
        );
        check(
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"b": "1"}}}),
            json!({"metadata": {"labels": {"a": "1", "c": "1"}}}),
            json!({"metadata": {"labels": {"a": null, "b": "1"}}}),
        );
        check(
            json!({}),
            json!({"spec": {"type": "ClusterIP"}}),
            json!({"spec": {"type": "ClusterIP", "x": 1}}),
            json!({}),
        );
    }

    #[test]
    fn lists_merge_by_key() {
        let last = json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}});
        let wanted = json!({"spec": {"ports": [{"port": 80, "name": "http"}]}});
        let live = json!({"spec": {"ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 81}]}});
        check(
            last,
            wanted,
            live,
            json!({"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81, "$patch": "delete"}]}}),
        );
    }

    #[test]
    fn annotation_remembers_the_manifest_alone() {
        let manifest = json!({"kind": "Service", "metadata": {"name": "a", "annotations": {"x": "1"}}});
        let wanted = annotated(&manifest);
        assert_eq!(wanted["metadata"]["annotations"]["x"], "1");
        assert_eq!(last_applied(&wanted), manifest);
        assert_eq!(annotated(&wanted), wanted);
    }
}
