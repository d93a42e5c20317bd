//! From a path to what it means: pure.

use crate::api::query::decode;
use crate::kinds::{self, Kind, Subresource};

/// What a path names.
#[derive(Clone, Debug, PartialEq)]
pub enum Route {
    /// `/api`: the core group's versions.
    Core,
    /// `/apis`: every group.
    Groups,
    /// `/apis/GROUP`.
    Group(&'static str),
    /// `/api/v1`, `/apis/GROUP/VERSION`: the resources of a version.
    Resources(&'static str, &'static str),
    OpenApiV2,
    /// `/openapi/v3` and, below it, the document of a group and version.
    OpenApiV3(Option<(&'static str, &'static str)>),
    Version,
    /// `/healthz`, `/readyz`, `/livez`, with or without a single check's name.
    Health,
    Root,
    /// A copy of everything.
    Backup,
    Object(Target),
}

/// A resource, or one object of it, or a part of that object.
#[derive(Clone)]
pub struct Target {
    pub kind: &'static Kind,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
    pub sub: Option<&'static Subresource>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sub = self.sub.map_or("", |s| s.name);
        write!(f, "{} {:?}/{:?} {sub:?}", self.kind.resource(), self.namespace, self.name)
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        std::ptr::eq(self.kind, other.kind)
            && (&self.namespace, &self.name) == (&other.namespace, &other.name)
            && self.sub.map(|s| s.name) == other.sub.map(|s| s.name)
    }
}

/// Segments of the longest path there is, `/apis/g/v/namespaces/n/r/name/sub`, and one to tell that there were more.
const MAX_SEGMENTS: usize = 9;

/// Reads a path. `None` is a 404.
pub fn parse(path: &str) -> Option<Route> {
    let segments: Vec<String> =
        path.split('/').filter(|s| !s.is_empty()).take(MAX_SEGMENTS).map(|s| decode(s, false)).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        [] => Some(Route::Root),
        ["api"] => Some(Route::Core),
        ["apis"] => Some(Route::Groups),
        ["version"] => Some(Route::Version),
        ["healthz" | "readyz" | "livez"] | ["healthz" | "readyz" | "livez", "ping"] => Some(Route::Health),
        ["coracle", "v1", "backup"] => Some(Route::Backup),
        ["openapi", "v2"] => Some(Route::OpenApiV2),
        ["openapi", "v3"] => Some(Route::OpenApiV3(None)),
        ["openapi", "v3", "api", version] => known("", version).map(|gv| Route::OpenApiV3(Some(gv))),
        ["openapi", "v3", "apis", group, version] => known(group, version).map(|gv| Route::OpenApiV3(Some(gv))),
        ["api", version, rest @ ..] => versioned("", version, rest),
        ["apis", group] => {
            let mut served = kinds::group_versions().iter();
            served.find(|(g, _)| g == group && !g.is_empty()).map(|(g, _)| Route::Group(g))
        }
        ["apis", group, version, rest @ ..] if !group.is_empty() => versioned(group, version, rest),
        _ => None,
    }
}

fn known(group: &str, version: &str) -> Option<(&'static str, &'static str)> {
    kinds::group_versions().iter().find(|gv| **gv == (group, version)).copied()
}

fn versioned(group: &str, version: &str, rest: &[&str]) -> Option<Route> {
    let (group, version) = known(group, version)?;
    let row = |plural: &str| kinds::find(group, version, plural);
    let target = |kind, namespace: &str, name: &str, sub| {
        Some(Route::Object(Target { kind, namespace: namespace.into(), name: name.into(), sub }))
    };
    match rest {
        [] => Some(Route::Resources(group, version)),
        [plural] => target(row(plural)?, "", "", None),
        // A namespaced resource below `namespaces/NAME` is looked for before a namespace's own subresource.
        ["namespaces", namespace, plural] if row(plural).is_some_and(|k| k.namespaced) => {
            target(row(plural)?, namespace, "", None)
        }
        ["namespaces", namespace, plural, name] => {
            let kind = row(plural).filter(|k| k.namespaced)?;
            target(kind, namespace, name, None)
        }
        ["namespaces", namespace, plural, name, sub] => {
            let kind = row(plural).filter(|k| k.namespaced)?;
            target(kind, namespace, name, Some(kind.subresource(sub)?))
        }
        [plural, name] => target(row(plural).filter(|k| !k.namespaced)?, "", name, None),
        [plural, name, sub] => {
            let kind = row(plural).filter(|k| !k.namespaced)?;
            target(kind, "", name, Some(kind.subresource(sub)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expect: &str) {
        let shown = match parse(path) {
            Some(Route::Object(target)) => format!("{target:?}"),
            other => format!("{other:?}"),
        };
        assert_eq!(shown, expect);
    }

    #[test]
    fn paths_of_objects() {
        check("/api/v1/pods", "pods \"\"/\"\" \"\"");
        check("/api/v1/namespaces/a/pods/b/log", "pods \"a\"/\"b\" \"log\"");
        check("/api/v1/namespaces/a", "namespaces \"\"/\"a\" \"\"");
        check("/api/v1/namespaces/a/status", "namespaces \"\"/\"a\" \"status\"");
        check("/api/v1/namespaces/a/configmaps", "configmaps \"a\"/\"\" \"\"");
        check("/api/v1/nodes/n1/status", "nodes \"\"/\"n1\" \"status\"");
        check("/apis/apps/v1/namespaces/a/deployments/d/scale", "deployments.apps \"a\"/\"d\" \"scale\"");
        check("/apis/apps/v1/namespaces/a/deployments/d%2Fe", "deployments.apps \"a\"/\"d/e\" \"\"");
    }

    #[test]
    fn paths_of_documents() {
        check("/", "Some(Root)");
        check("/api", "Some(Core)");
        check("/apis", "Some(Groups)");
        check("/apis/apps", "Some(Group(\"apps\"))");
        check("/apis/apps/v1", "Some(Resources(\"apps\", \"v1\"))");
        check("/openapi/v3/apis/apps/v1", "Some(OpenApiV3(Some((\"apps\", \"v1\"))))");
        check("/readyz", "Some(Health)");
        check(crate::api::backup::PATH, "Some(Backup)");
    }

    #[test]
    fn paths_that_are_not_there() {
        for path in [
            "/api/v2",
            "/apis/none/v1",
            "/api/v1/nothing",
            "/api/v1/pods/a",
            "/api/v1/namespaces/a/nodes/b",
            "/api/v1/namespaces/a/pods/b/none",
            "/api/v1/namespaces/a/pods/b/log/c",
            "/apis//v1/pods",
            "/openapi/v3/apis/none/v1",
        ] {
            check(path, "None");
        }
    }
}
