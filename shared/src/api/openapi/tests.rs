use super::*;
use crate::api::protobuf::wire::{Payload, Reader};

const ALL: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
const STATUS: &[&str] = &["get", "update", "patch"];

const DEPLOYMENT: Served<'static> = Served {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    namespaced: true,
    verbs: ALL,
    subresources: &[
        Subresource { name: "status", group: "apps", version: "v1", kind: "Deployment", verbs: STATUS },
        Subresource { name: "scale", group: "autoscaling", version: "v1", kind: "Scale", verbs: STATUS },
    ],
};

const POD: Served<'static> = Served {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    namespaced: true,
    verbs: ALL,
    subresources: &[
        Subresource { name: "log", group: "", version: "v1", kind: "Pod", verbs: &["get"] },
        Subresource { name: "binding", group: "", version: "v1", kind: "Binding", verbs: &["create"] },
    ],
};

const NODE: Served<'static> = Served {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    namespaced: false,
    verbs: ALL,
    subresources: &[],
};

const SERVED: &[Served<'static>] = &[POD, NODE, DEPLOYMENT];

fn v2() -> Value {
    let mut out = Vec::new();
    v2_json(SERVED, "v1.36.0", &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

fn v3(group: &str, version: &str) -> Value {
    let mut out = Vec::new();
    assert!(v3_document(SERVED, group, version, "v1.36.0", &mut out).unwrap());
    serde_json::from_slice(&out).unwrap()
}

/// Every `$ref` in `value` names something in `definitions`.
fn check_refs(value: &Value, prefix: &str, definitions: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(name)) = map.get("$ref") {
                let name = name.strip_prefix(prefix).unwrap_or_else(|| panic!("{name}"));
                assert!(definitions.get(name).is_some(), "{name}");
            }
            map.values().for_each(|v| check_refs(v, prefix, definitions));
        }
        Value::Array(list) => list.iter().for_each(|v| check_refs(v, prefix, definitions)),
        _ => {}
    }
}

#[test]
fn references_lead_somewhere_and_ids_are_unique() {
    let v2 = v2();
    check_refs(&v2, "#/definitions/", &v2["definitions"]);
    for (group, version) in [("", "v1"), ("apps", "v1")] {
        let v3 = v3(group, version);
        check_refs(&v3, "#/components/schemas/", &v3["components"]["schemas"]);
    }
    let mut ids = BTreeSet::new();
    for item in v2["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values().filter_map(|o| o.get("operationId")) {
            assert!(ids.insert(operation.to_string()), "{operation}");
        }
    }
    assert!(ids.contains("\"patchAppsV1NamespacedDeploymentScale\""), "{ids:?}");
}

#[test]
fn schemas_carry_what_kubectl_reads() {
    let v2 = v2();
    let deployment = &v2["definitions"]["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "kind": "Deployment", "version": "v1"}])
    );
    let spec = &v2["definitions"]["io.k8s.api.core.v1.PodSpec"];
    let containers = &spec["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["items"]["$ref"], "#/definitions/io.k8s.api.core.v1.Container");
    assert_eq!(spec["properties"]["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(spec["required"], json!(["containers"]));
    let volume = &v2["definitions"]["io.k8s.api.core.v1.Volume"];
    assert!(volume["properties"].get("emptyDir").is_some(), "inlined fields are properties");
    let strategy =
        &v3("apps", "v1")["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"];
    assert_eq!(strategy["x-kubernetes-patch-strategy"], "retainKeys");
    assert!(strategy["allOf"][0]["$ref"].is_string());
    assert!(v2["definitions"].get("io.k8s.api.batch.v1.Job").is_none(), "only what is reached");
    let options = &v2["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"];
    assert_eq!(options["x-kubernetes-group-version-kind"].as_array().map(Vec::len), Some(2));
}

#[test]
fn patches_take_field_validation_and_dry_run() {
    for document in [v2(), v3("apps", "v1")] {
        let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        for path in [path.to_string(), format!("{path}/status")] {
            let patch = &document["paths"][&path]["patch"];
            assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
            for wanted in ["fieldValidation", "dryRun", "fieldManager"] {
                let parameters = patch["parameters"].as_array().unwrap();
                assert!(parameters.iter().any(|p| p["name"] == wanted && p["in"] == "query"), "{wanted}");
            }
        }
        let scale = &document["paths"][format!("{path}/scale")]["patch"];
        assert_eq!(scale["x-kubernetes-group-version-kind"]["group"], "autoscaling");
    }
    let apps = v3("apps", "v1");
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    assert!(apps["paths"].get("/api/v1/nodes").is_none());
    assert!(v2()["paths"]["/api/v1/nodes/{name}"]["get"].is_object());
}

#[test]
fn the_index_names_each_group_once() {
    let mut out = Vec::new();
    v3_index(SERVED, "v1.36.0", &mut out).unwrap();
    let index: Value = serde_json::from_slice(&out).unwrap();
    let paths: Vec<&String> = index["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["api/v1", "apis/apps/v1"]);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    assert_ne!(v3_hash(SERVED, "", "v1", "v1"), v3_hash(&SERVED[..1], "", "v1", "v1"));
    assert!(!v3_document(SERVED, "batch", "v1", "v1", &mut Vec::new()).unwrap());
}

/// The payloads of a field in a message.
fn fields(bytes: &[u8], wanted: u32) -> Vec<&[u8]> {
    let (mut reader, mut found) = (Reader::new(bytes), Vec::new());
    while let Some((number, payload)) = reader.next().unwrap() {
        match payload {
            Payload::Bytes(bytes) if number == wanted => found.push(bytes),
            _ => {}
        }
    }
    found
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_protobuf_document_holds_the_same() {
    let mut out = Vec::new();
    v2_protobuf(SERVED, "v1.36.0", &mut out).unwrap();
    let json = v2();
    assert_eq!(text(fields(&out, 1)[0]), "2.0");
    let paths = fields(fields(&out, 8)[0], 2);
    assert_eq!(paths.len(), json["paths"].as_object().unwrap().len());
    let definitions = fields(fields(&out, 9)[0], 1);
    assert_eq!(definitions.len(), json["definitions"].as_object().unwrap().len());
    let pod = definitions.iter().find(|d| text(fields(d, 1)[0]) == "io.k8s.api.core.v1.Pod").unwrap();
    let pod = fields(pod, 2)[0];
    let extension = fields(pod, 31)[0];
    assert_eq!(text(fields(extension, 1)[0]), "x-kubernetes-group-version-kind");
    let yaml = fields(fields(extension, 2)[0], 2)[0];
    assert_eq!(text(yaml), r#"[{"group":"","kind":"Pod","version":"v1"}]"#);
    let properties = fields(fields(pod, 25)[0], 1);
    assert_eq!(properties.len(), 5);
    assert_eq!(text(fields(fields(pod, 22)[0], 1)[0]), "object");
    // A PATCH: path item 8, parameters 8, non-body 2, query 3, name 4.
    let item = paths.iter().find(|p| text(fields(p, 1)[0]).ends_with("/pods/{name}")).unwrap();
    let patch = fields(fields(item, 2)[0], 8)[0];
    let names: Vec<&str> = fields(patch, 8)
        .iter()
        .filter_map(|p| Some(text(fields(fields(fields(fields(p, 1)[0], 2).first()?, 3)[0], 4)[0])))
        .collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
}
