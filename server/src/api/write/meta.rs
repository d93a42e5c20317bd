//! The rules of `metadata`, the same for every kind: pure.

use coracle_shared::api::field::{FieldError, Path};
use coracle_shared::api::status::Status;
use coracle_shared::api::time::Time;
use serde_json::{Map, Value};

use super::group_kind;
use crate::api::list::resource;
use crate::api::route::Target;
use crate::kinds::{Kind, View};

/// Characters of generated names: no vowels, nothing that reads as another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// Names end before this, so that there is room for the suffix.
const MAX_GENERATED: usize = 63 - SUFFIX;

/// A random (version 4) UUID as text.
pub fn uuid(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in random.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        for digit in [byte >> 4, byte & 0x0f] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

/// A name from `generateName` and randomness.
pub fn generated(base: &str, random: [u8; 16]) -> String {
    let mut end = base.len().min(MAX_GENERATED);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let suffix = random.iter().take(SUFFIX).map(|b| ALPHABET[*b as usize % ALPHABET.len()] as char);
    base[..end].chars().chain(suffix).collect()
}

/// A time in milliseconds since the Unix epoch, as metadata has it.
pub fn timestamp(millis: i64) -> String {
    Time { seconds: millis.div_euclid(1000), ..Time::default() }.to_seconds_text()
}

/// Fields that a client may send but only the server decides.
const SERVER_OWN: &[&str] =
    &["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

/// Gives a new object its identity. Answers whether the name was generated.
pub fn create(object: &mut Value, target: &Target, now: i64, random: &dyn Fn() -> [u8; 16]) -> Result<bool, Status> {
    place(object, target)?;
    let meta = metadata(object);
    if meta.get("resourceVersion").is_some_and(|v| v.as_str().is_some_and(|v| !v.is_empty() && v != "0")) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    for field in SERVER_OWN.iter().chain(&["resourceVersion"]) {
        meta.remove(*field);
    }
    let named = meta.get("name").is_some_and(|n| n.as_str().is_some_and(|n| !n.is_empty()));
    let base = meta.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
    let generate = !named && !base.is_empty();
    if generate {
        meta.insert("name".into(), generated(&base, random()).into());
    }
    meta.insert("uid".into(), uuid(random()).into());
    meta.insert("creationTimestamp".into(), timestamp(now).into());
    if target.kind.generation {
        meta.insert("generation".into(), 1.into());
    }
    if !generate && !named {
        let root = Path::ROOT;
        let error = FieldError::required(&root.child("metadata").child("name"), "name or generateName is required");
        return Err(Status::invalid(group_kind(target.kind), "", &[error]));
    }
    Ok(generate)
}

fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("made an object above")
}

/// The namespace of the object is that of the path.
fn place(object: &mut Value, target: &Target) -> Result<(), Status> {
    let given = View(object).text(&["metadata", "namespace"]).to_owned();
    let meta = metadata(object);
    if !target.kind.namespaced {
        meta.remove("namespace");
        return Ok(());
    }
    if !given.is_empty() && given != target.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request: {given:?} and {:?}",
            target.namespace
        )));
    }
    meta.insert("namespace".into(), target.namespace.as_str().into());
    Ok(())
}

/// Carries over what a client may not change; refuses what contradicts the old object.
/// Both objects are in the row's form; `old` has its `resourceVersion`.
pub fn update(new: &mut Value, old: &Value, target: &Target) -> Result<(), Status> {
    place(new, target)?;
    let (given, known) = (View(new), View(old));
    let name = given.text(&["metadata", "name"]);
    if !name.is_empty() && name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    let uid = given.text(&["metadata", "uid"]);
    let known_uid = known.text(&["metadata", "uid"]);
    if !uid.is_empty() && uid != known_uid {
        return Err(Status::precondition(resource(target.kind), &target.name, "UID", uid, known_uid));
    }
    let revision = given.text(&["metadata", "resourceVersion"]);
    if !revision.is_empty() && revision != "0" && revision != known.text(&["metadata", "resourceVersion"]) {
        return Err(Status::modified(resource(target.kind), &target.name));
    }
    let meta = metadata(new);
    meta.insert("name".into(), target.name.as_str().into());
    managed_fields(meta, &old["metadata"]);
    for field in SERVER_OWN.iter().chain(&["generateName", "resourceVersion"]) {
        match old["metadata"].get(field) {
            Some(value) => meta.insert((*field).into(), value.clone()),
            None => meta.remove(*field),
        };
    }
    finalizers(new, old, target.kind, &target.name)
}

/// Who manages what stays recorded, unless the write says otherwise; an empty list or entry ends the record.
fn managed_fields(meta: &mut Map<String, Value>, old: &Value) {
    let given = meta.get("managedFields").and_then(Value::as_array);
    let ends = given.is_some_and(|list| list.iter().all(|entry| entry.as_object().is_some_and(Map::is_empty)));
    match (given, old.get("managedFields")) {
        (Some(_), _) if ends => drop(meta.remove("managedFields")),
        (Some(_), _) => {}
        (None, Some(known)) => drop(meta.insert("managedFields".into(), known.clone())),
        (None, None) => drop(meta.remove("managedFields")),
    }
}

/// An object that is being deleted gets no new finalizers.
fn finalizers(new: &Value, old: &Value, kind: &'static Kind, name: &str) -> Result<(), Status> {
    if !View(old).has(&["metadata", "deletionTimestamp"]) {
        return Ok(());
    }
    let known = View(old).list(&["metadata", "finalizers"]);
    let added: Vec<String> = View(new)
        .list(&["metadata", "finalizers"])
        .iter()
        .filter(|f| !known.contains(f))
        .map(|f| f.to_string())
        .collect();
    if added.is_empty() {
        return Ok(());
    }
    let root = Path::ROOT;
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.join(", ")
    );
    let error = FieldError::forbidden(&root.child("metadata").child("finalizers"), why);
    Err(Status::invalid(group_kind(kind), name, &[error]))
}

/// Whether anything but metadata and status differs: what raises the generation.
pub fn desired_differs(new: &Value, old: &Value) -> bool {
    let desired = |object: &Value| -> Map<String, Value> {
        let fields = object.as_object().into_iter().flatten();
        let own = fields.filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status" | "apiVersion" | "kind"));
        own.map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    desired(new) != desired(old)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    fn target(name: &str) -> Target {
        let kind = kinds::by_resource("configmaps").expect("known");
        Target { kind, namespace: "a".into(), name: name.into(), sub: None }
    }

    #[test]
    fn a_new_object_gets_its_identity_from_the_server() {
        let mut object = json!({"metadata": {"name": "x", "uid": "mine", "generation": 7, "selfLink": "/"}});
        assert_eq!(create(&mut object, &target(""), 1000, &|| [0xff; 16]), Ok(false));
        assert_eq!(
            object["metadata"],
            json!({"name": "x", "namespace": "a", "uid": "ffffffff-ffff-4fff-bfff-ffffffffffff",
                "creationTimestamp": "1970-01-01T00:00:01Z"})
        );
    }

    #[test]
    fn names_are_generated_within_their_bounds() {
        assert_eq!(generated("web-", [0; 16]), "web-bbbbb");
        assert_eq!(generated(&"x".repeat(200), [1; 16]).len(), 63);
        assert_eq!(generated(&"ü".repeat(40), [1; 16]).chars().count(), 29 + SUFFIX);
        let mut object = json!({"metadata": {"generateName": "p-"}});
        assert_eq!(create(&mut object, &target(""), 0, &|| [2; 16]), Ok(true));
        assert_eq!(object["metadata"]["name"], "p-ddddd");
    }

    #[track_caller]
    fn refused(mut object: Value, code: u16) {
        assert_eq!(create(&mut object, &target(""), 0, &|| [0; 16]).expect_err("refused").code, code);
    }

    #[test]
    fn what_cannot_be_created_is_refused() {
        refused(json!({"metadata": {"name": "x", "namespace": "b"}}), 400);
        refused(json!({"metadata": {"name": "x", "resourceVersion": "5"}}), 400);
        refused(json!({"metadata": {}}), 422);
        refused(json!({}), 422);
    }

    #[test]
    fn an_update_keeps_what_is_the_servers_and_refuses_contradictions() {
        let old = json!({"metadata": {"name": "x", "namespace": "a", "uid": "u", "resourceVersion": "5",
            "creationTimestamp": "t", "deletionTimestamp": "d", "finalizers": ["f/1"]}});
        let apply = |mut new: Value| update(&mut new, &old, &target("x")).map(|()| new);
        let kept = apply(json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["f/1"], "creationTimestamp": "z"}}));
        let mut expect = old["metadata"].clone();
        expect["labels"] = json!({"a": "b"});
        assert_eq!(kept.expect("accepted")["metadata"], expect);
        for (new, code) in [
            (json!({"metadata": {"name": "y"}}), 400),
            (json!({"metadata": {"uid": "v"}}), 409),
            (json!({"metadata": {"resourceVersion": "4"}}), 409),
            (json!({"metadata": {"finalizers": ["f/1", "f/2"]}}), 422),
        ] {
            assert_eq!(apply(new).expect_err("refused").code, code);
        }
    }
}
