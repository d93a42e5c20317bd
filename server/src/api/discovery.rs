//! Discovery: which groups, versions and resources there are, in the old form and the aggregated one.

use serde_json::{Value, json};

use super::accept::Media;
use crate::kinds::{self, Kind, Subresource, api_version};

/// The content type of the aggregated form of a version; clients compare its parameters.
pub fn aggregated(accept: Option<&str>) -> Option<&'static str> {
    let media = Media::parse(accept.unwrap_or_default());
    media.iter().find_map(|m| match (m.is_json(), m.param("g"), m.param("as"), m.param("v"), m.param("profile")) {
        (true, Some("apidiscovery.k8s.io"), Some("APIGroupDiscoveryList"), Some("v2"), None) => {
            Some("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
        }
        (true, Some("apidiscovery.k8s.io"), Some("APIGroupDiscoveryList"), Some("v2beta1"), None) => {
            Some("application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList")
        }
        _ => None,
    })
}

/// Groups in their order, the core group not among them.
fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = kinds::group_versions().iter().map(|(g, _)| *g).filter(|g| !g.is_empty()).collect();
    groups.dedup();
    groups
}

fn versions(group: &str) -> Vec<&'static str> {
    kinds::group_versions().iter().filter(|(g, _)| *g == group).map(|(_, v)| *v).collect()
}

/// `/api`; `address` is where clients reach the server.
pub fn core(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `/apis`.
pub fn group_list() -> Value {
    let groups: Vec<Value> = groups().into_iter().map(group).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`, without its own kind.
pub fn group(name: &str) -> Value {
    let versions: Vec<Value> =
        versions(name).iter().map(|v| json!({"groupVersion": api_version(name, v), "version": v})).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

/// `/apis/GROUP` as a document of its own.
pub fn group_document(name: &str) -> Value {
    let mut document = group(name);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    document
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub fn resources(group: &str, version: &str) -> Value {
    let rows = kinds::all().iter().filter(|k| k.group == group && k.version == version);
    let resources: Vec<Value> = rows.flat_map(resource).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version),
        "resources": resources})
}

fn resource(kind: &Kind) -> Vec<Value> {
    let mut own = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": kind.verbs});
    for (field, words) in [("shortNames", kind.short), ("categories", kind.categories)] {
        if !words.is_empty() {
            own[field] = words.into();
        }
    }
    let sub = |sub: &Subresource| {
        let mut entry = json!({"name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
            "namespaced": kind.namespaced, "kind": sub.kind, "verbs": sub.verbs});
        if (sub.group, sub.version) != (kind.group, kind.version) {
            entry["group"] = sub.group.into();
            entry["version"] = sub.version.into();
        }
        entry
    };
    std::iter::once(own).chain(kind.subresources.iter().map(sub)).collect()
}

/// The aggregated form of `/api` (the core group alone) or `/apis` (all others). `content_type`
/// decides the version.
pub fn aggregate(core: bool, content_type: &str) -> Value {
    let version = if content_type.contains("v2beta1") { "v2beta1" } else { "v2" };
    let groups = if core { vec![""] } else { groups() };
    let items: Vec<Value> = groups.into_iter().map(aggregate_group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items})
}

fn aggregate_group(group: &str) -> Value {
    let versions: Vec<Value> = versions(group)
        .into_iter()
        .map(|version| {
            let rows = kinds::all().iter().filter(|k| k.group == group && k.version == version);
            let resources: Vec<Value> = rows.map(aggregate_resource).collect();
            json!({"version": version, "freshness": "Current", "resources": resources})
        })
        .collect();
    json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
}

fn aggregate_resource(kind: &Kind) -> Value {
    let gvk = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|s| json!({"subresource": s.name, "responseKind": gvk(s.group, s.version, s.kind), "verbs": s.verbs}))
        .collect();
    let mut entry = json!({"resource": kind.plural, "responseKind": gvk(kind.group, kind.version, kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": kind.singular,
        "verbs": kind.verbs});
    for (field, words) in [("shortNames", kind.short), ("categories", kind.categories)] {
        if !words.is_empty() {
            entry[field] = words.into();
        }
    }
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_what_is_accepted() {
        let new = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(Some(new)), Some("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"));
        assert_eq!(aggregated(Some("application/json, */*")), None);
        assert_eq!(aggregated(None), None);
    }

    #[test]
    fn both_forms_name_the_same_resources() {
        let old = resources("apps", "v1");
        let new = aggregate(false, "v=v2");
        let apps = new["items"].as_array().and_then(|i| i.iter().find(|g| g["metadata"]["name"] == "apps"));
        let names = |list: &Value, field: &str| -> Vec<String> {
            let entries = list.as_array().into_iter().flatten();
            entries.filter_map(|e| e[field].as_str()).filter(|n| !n.contains('/')).map(String::from).collect()
        };
        let apps = apps.expect("apps is served");
        assert_eq!(names(&old["resources"], "name"), names(&apps["versions"][0]["resources"], "resource"));
        assert_eq!(
            names(&old["resources"], "name"),
            ["controllerrevisions", "daemonsets", "deployments", "replicasets", "statefulsets"]
        );
    }

    #[test]
    fn a_foreign_subresource_names_its_group() {
        let list = resources("", "v1");
        let eviction = list["resources"].as_array().and_then(|r| r.iter().find(|e| e["name"] == "pods/eviction"));
        assert_eq!(eviction.expect("served")["group"], "policy");
    }
}
