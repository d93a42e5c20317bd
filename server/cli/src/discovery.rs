//! Which resources the server has, and how people call them.

use serde_json::Value;

use crate::client::Client;
use crate::error::Error;

/// A resource as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short: Vec<String>,
    pub namespaced: bool,
}

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// All resources of all groups, preferred versions first.
pub fn resources(client: &Client) -> Result<Vec<Resource>, Error> {
    let mut found = Vec::new();
    for path in ["/api", "/apis"] {
        collect(&client.get_as(path, AGGREGATED)?, &mut found);
    }
    Ok(found)
}

fn collect(document: &Value, found: &mut Vec<Resource>) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    for group in document["items"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                found.push(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short: resource["shortNames"].as_array().into_iter().flatten().map(text).collect(),
                    namespaced: resource["scope"] == "Namespaced",
                });
            }
        }
    }
}

impl Resource {
    /// `plural` or `plural.group`, as messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The path of the collection, in a namespace or across all.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let (name, group) = name.split_once('.').unwrap_or((name, ""));
        let named = self.plural == name
            || self.singular == name
            || self.short.iter().any(|s| s == name)
            || self.kind.to_lowercase() == name;
        named && (group.is_empty() || self.group == group)
    }
}

/// The resource that `name` means: plural, singular, short name or kind, optionally with its group.
pub fn find<'a>(resources: &'a [Resource], name: &str) -> Result<&'a Resource, Error> {
    let name = name.to_lowercase();
    resources.iter().find(|r| r.is_called(&name)).ok_or_else(|| {
        Error::Usage(format!("the server has no resource type {name:?}; try one of: {}", known(resources)))
    })
}

/// The resource of an object in a manifest.
pub fn of_object<'a>(resources: &'a [Resource], api_version: &str, kind: &str) -> Result<&'a Resource, Error> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    resources
        .iter()
        .find(|r| r.group == group && r.version == version && r.kind == kind)
        .ok_or_else(|| Error::Usage(format!("the server has no kind {kind:?} in {api_version:?}")))
}

fn known(resources: &[Resource]) -> String {
    let mut names: Vec<&str> = resources.iter().map(|r| r.plural.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn some() -> Vec<Resource> {
        let mut found = Vec::new();
        collect(
            &json!({"items": [
                {"metadata": {"name": ""}, "versions": [{"version": "v1", "resources": [
                    {"resource": "pods", "singularResource": "pod", "shortNames": ["po"], "scope": "Namespaced", "responseKind": {"kind": "Pod"}},
                    {"resource": "nodes", "singularResource": "node", "scope": "Cluster", "responseKind": {"kind": "Node"}}]}]},
                {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [
                    {"resource": "deployments", "singularResource": "deployment", "shortNames": ["deploy"], "scope": "Namespaced", "responseKind": {"kind": "Deployment"}}]}]}]}),
            &mut found,
        );
        found
    }

    #[test]
    fn names() {
        let all = some();
        for name in ["po", "pod", "pods", "Pod", "PODS"] {
            assert_eq!(find(&all, name).unwrap().plural, "pods", "{name}");
        }
        assert_eq!(find(&all, "deployments.apps").unwrap().plural, "deployments");
        assert!(find(&all, "deployments.batch").is_err());
        assert!(find(&all, "pood").is_err());
    }

    #[test]
    fn paths() {
        let all = some();
        assert_eq!(find(&all, "deploy").unwrap().path(Some("n")), "/apis/apps/v1/namespaces/n/deployments");
        assert_eq!(find(&all, "po").unwrap().path(None), "/api/v1/pods");
        assert_eq!(find(&all, "node").unwrap().path(Some("n")), "/api/v1/nodes");
    }
}
