//! The paths and operations of one served kind.

use serde_json::{Map, Value, json};

use super::definition::{name, reference};
use super::{Dialect, Served, group_path};
use crate::api::table::schema;

const JSON: &str = "application/json";

const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// A query parameter: name and type.
type Query = (&'static str, &'static str);

const LIST: &[Query] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[Query] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[Query] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[Query] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

/// What a verb is in HTTP and in the document.
struct Verb {
    verb: &'static str,
    method: &'static str,
    action: &'static str,
    query: &'static [Query],
    /// On the collection, not on one object.
    collection: bool,
}

const VERBS: &[Verb] = &[
    Verb { verb: "list", method: "get", action: "list", query: LIST, collection: true },
    Verb { verb: "create", method: "post", action: "post", query: WRITE, collection: true },
    Verb { verb: "deletecollection", method: "delete", action: "deletecollection", query: DELETE, collection: true },
    Verb { verb: "get", method: "get", action: "get", query: &[], collection: false },
    Verb { verb: "update", method: "put", action: "put", query: WRITE, collection: false },
    Verb { verb: "patch", method: "patch", action: "patch", query: PATCH, collection: false },
    Verb { verb: "delete", method: "delete", action: "delete", query: DELETE, collection: false },
];

/// What an operation is about: the kind itself or a subresource.
struct About<'a> {
    served: &'a Served<'a>,
    /// Empty for the kind itself.
    subresource: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    all_namespaces: bool,
}

/// The path items of a kind, with their paths.
pub(super) fn items(served: &Served<'_>, dialect: Dialect) -> Vec<(String, Value)> {
    let base = format!("/{}", group_path(served.group, served.version));
    let plural = served.plural;
    let collection = match served.namespaced {
        true => format!("{base}/namespaces/{{namespace}}/{plural}"),
        false => format!("{base}/{plural}"),
    };
    let own = |all_namespaces| About {
        served,
        subresource: "",
        group: served.group,
        version: served.version,
        kind: served.kind,
        all_namespaces,
    };
    let has = |verb: &Verb| served.verbs.contains(&verb.verb);
    let mut items = Vec::new();
    let mut push = |path: String, about: &About<'_>, verbs: Vec<&Verb>| {
        if !verbs.is_empty() {
            let item = item(&path, about, &verbs, dialect);
            items.push((path, item));
        }
    };
    push(collection.clone(), &own(false), VERBS.iter().filter(|v| v.collection && has(v)).collect());
    let single = format!("{collection}/{{name}}");
    push(single.clone(), &own(false), VERBS.iter().filter(|v| !v.collection && has(v)).collect());
    if served.namespaced {
        let verbs = VERBS.iter().filter(|v| v.verb == "list" && has(v)).collect();
        push(format!("{base}/{plural}"), &own(true), verbs);
    }
    for sub in served.subresources {
        let about = About {
            served,
            subresource: sub.name,
            group: sub.group,
            version: sub.version,
            kind: sub.kind,
            all_namespaces: false,
        };
        let verbs = VERBS.iter().filter(|v| sub.verbs.contains(&v.verb)).collect();
        push(format!("{single}/{}", sub.name), &about, verbs);
    }
    items
}

fn item(path: &str, about: &About<'_>, verbs: &[&Verb], dialect: Dialect) -> Value {
    let mut item = Map::new();
    for verb in verbs {
        item.insert(verb.method.to_string(), operation(about, verb, dialect));
    }
    let mut parameters: Vec<Value> = Vec::new();
    for place in ["name", "namespace"] {
        if path.contains(&format!("{{{place}}}")) {
            parameters.push(parameter(place, "path", "string", dialect));
        }
    }
    parameters.push(parameter("pretty", "query", "string", dialect));
    item.insert("parameters".into(), parameters.into());
    Value::Object(item)
}

fn parameter(name: &str, place: &str, ty: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({"name": name, "in": place});
    match dialect {
        Dialect::V2 => parameter["type"] = ty.into(),
        Dialect::V3 => parameter["schema"] = json!({"type": ty}),
    }
    match (place, dialect) {
        ("path", _) => parameter["required"] = true.into(),
        (_, Dialect::V2) => parameter["uniqueItems"] = true.into(),
        (_, Dialect::V3) => parameter["schema"]["uniqueItems"] = true.into(),
    }
    parameter
}

fn operation(about: &About<'_>, verb: &Verb, dialect: Dialect) -> Value {
    let query = verb.query.iter().map(|(name, ty)| parameter(name, "query", ty, dialect));
    let mut parameters: Vec<Value> = query.collect();
    let (body, consumes) = body(about, verb);
    let answer = answer(about, verb).map(|name| reference(&name, dialect));
    let mut operation = json!({
        "operationId": operation_id(about, verb),
        "tags": [format!("{}_{}", group_word(about.served.group), about.served.version)],
        "x-kubernetes-action": verb.action,
        "x-kubernetes-group-version-kind": {"group": about.group, "kind": about.kind, "version": about.version},
    });
    let body = body.map(|name| reference(&name, dialect));
    let mut ok = json!({"description": "OK"});
    match dialect {
        Dialect::V2 => {
            if let Some(body) = body {
                parameters
                    .push(json!({"in": "body", "name": "body", "required": verb.method != "delete", "schema": body}));
            }
            if let Some(answer) = answer {
                ok["schema"] = answer;
            }
            operation["consumes"] = consumes.into();
            operation["produces"] = json!([JSON]);
        }
        Dialect::V3 => {
            if let Some(body) = body {
                let content = consumes.iter().map(|media| (media.to_string(), json!({"schema": body})));
                operation["requestBody"] = json!({"content": content.collect::<Map<_, _>>()});
                if verb.method != "delete" {
                    operation["requestBody"]["required"] = true.into();
                }
            }
            if let Some(answer) = answer {
                ok["content"] = json!({JSON: {"schema": answer}});
            }
        }
    }
    operation["responses"] = match verb.verb {
        "create" => json!({"200": ok, "201": ok, "401": {"description": "Unauthorized"}}),
        _ => json!({"200": ok, "401": {"description": "Unauthorized"}}),
    };
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    operation
}

/// The definition of the request's body, and its media types.
fn body(about: &About<'_>, verb: &Verb) -> (Option<String>, &'static [&'static str]) {
    let meta = |kind: &str| schema().named_type("meta/v1", kind).map(name);
    match verb.method {
        "patch" => (meta("Patch"), PATCHES),
        "delete" => (meta("DeleteOptions"), &[JSON]),
        "post" | "put" => (schema().kind(about.group, about.version, about.kind).map(name), &[JSON]),
        _ => (None, &["*/*"]),
    }
}

/// The definition of the answer, where it is an object.
fn answer(about: &About<'_>, verb: &Verb) -> Option<String> {
    let kind = match verb.verb {
        "list" => format!("{}List", about.kind),
        "delete" | "deletecollection" => "Status".to_string(),
        // A log is text.
        "get" if matches!(about.subresource, "log" | "proxy" | "exec" | "attach" | "portforward") => return None,
        _ => about.kind.to_string(),
    };
    schema().kind(about.group, about.version, &kind).map(name)
}

/// `core`, `apps`, `coordination`.
fn group_word(group: &str) -> &str {
    match group.split('.').next() {
        None | Some("") => "core",
        Some(word) => word,
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}

/// `createAppsV1NamespacedDeployment`: unique in the document.
fn operation_id(about: &About<'_>, verb: &Verb) -> String {
    let action = match verb.verb {
        "get" => "read",
        "update" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let served = about.served;
    let scope = if served.namespaced && !about.all_namespaces { "Namespaced" } else { "" };
    let everywhere = if about.all_namespaces { "ForAllNamespaces" } else { "" };
    format!(
        "{action}{}{}{scope}{}{}{everywhere}",
        capital(group_word(served.group)),
        capital(served.version),
        served.kind,
        capital(about.subresource)
    )
}
