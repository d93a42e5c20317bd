//! Objects as bytes: how they lie in the store, and how `apiVersion` and `resourceVersion` are put
//! back on the way out.
//!
//! Stored bytes are compact JSON that starts with `{"kind":"KIND","metadata":{`, without
//! `apiVersion` and `metadata.resourceVersion`. Output is then two copies around two short strings.
//! Bytes in another order are still read correctly, only more slowly.

use coracle_store::{Item, Revision};
use serde_json::{Map, Value};

use crate::kinds::Kind;

/// The schema that stored bytes are in today; see [`Item::schema`].
pub const SCHEMA: u16 = 1;

/// Encodes an object for the store.
pub fn encode(kind: &str, object: &Value) -> Vec<u8> {
    let nothing = Map::new();
    let fields = object.as_object().unwrap_or(&nothing);
    let metadata = fields.get("metadata").and_then(Value::as_object).unwrap_or(&nothing);
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(prefix(kind).as_bytes());
    let mut first = true;
    for (name, value) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
        member(&mut out, &mut first, name, value);
    }
    out.push(b'}');
    for (name, value) in fields {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            member(&mut out, &mut false, name, value);
        }
    }
    out.push(b'}');
    out
}

fn prefix(kind: &str) -> String {
    format!("{{\"kind\":\"{kind}\",\"metadata\":{{")
}

fn member(out: &mut Vec<u8>, first: &mut bool, name: &str, value: &Value) {
    if !std::mem::replace(first, false) {
        out.push(b',');
    }
    // Writing JSON into memory fails for no value that serde_json itself made.
    serde_json::to_writer(&mut *out, name).expect("a string is JSON");
    out.push(b':');
    serde_json::to_writer(&mut *out, value).expect("a value is JSON");
}

/// Parses stored bytes into the object in its stored form, with `apiVersion` and, when given,
/// `resourceVersion`.
pub fn decode(kind: &Kind, bytes: &[u8], revision: Option<Revision>) -> Value {
    let mut object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    if !object.is_object() {
        object = Value::Object(Map::new());
    }
    object["apiVersion"] = crate::kinds::api_version(kind.storage.group, kind.storage.version).into();
    object["kind"] = kind.kind.into();
    if let Some(revision) = revision {
        object["metadata"]["resourceVersion"] = revision.to_string().into();
    }
    object
}

/// The object of an item in the row's own form.
pub fn of_item(kind: &Kind, item: &Item) -> Value {
    let mut object = decode(kind, &item.value, Some(item.revision));
    to_row(kind, &mut object);
    object
}

/// From the stored form to the row's.
pub fn to_row(kind: &Kind, object: &mut Value) {
    if let Some(conversion) = kind.storage.convert {
        (conversion.from_stored)(object);
        object["apiVersion"] = kind.api_version().into();
    }
}

/// From the row's form to the stored one.
pub fn to_stored(kind: &Kind, object: &mut Value) {
    if let Some(conversion) = kind.storage.convert {
        (conversion.to_stored)(object);
        object["apiVersion"] = crate::kinds::api_version(kind.storage.group, kind.storage.version).into();
    }
}

/// Puts stored bytes out in the row's form.
pub struct Splicer {
    kind: &'static Kind,
    /// What stored bytes start with.
    stored: String,
    /// What goes out instead, up to the revision.
    head: String,
}

impl Splicer {
    pub fn new(kind: &'static Kind) -> Splicer {
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"",
            kind.kind,
            kind.api_version()
        );
        Splicer { kind, stored: prefix(kind.kind), head }
    }

    /// Appends the object as a client sees it.
    pub fn write(&self, out: &mut Vec<u8>, bytes: &[u8], revision: Revision) {
        let rest = match self.kind.storage.convert {
            None => bytes.strip_prefix(self.stored.as_bytes()),
            Some(_) => None,
        };
        let Some(rest) = rest else { return self.write_parsed(out, bytes, revision) };
        out.reserve(self.head.len() + 24 + rest.len());
        out.extend_from_slice(self.head.as_bytes());
        out.extend_from_slice(revision.to_string().as_bytes());
        out.extend_from_slice(if rest.starts_with(b"}") { b"\"" } else { b"\"," });
        out.extend_from_slice(rest);
    }

    fn write_parsed(&self, out: &mut Vec<u8>, bytes: &[u8], revision: Revision) {
        let mut object = decode(self.kind, bytes, Some(revision));
        to_row(self.kind, &mut object);
        serde_json::to_writer(out, &object).expect("a value is JSON");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    fn spliced(resource: &str, bytes: &[u8]) -> Value {
        let mut out = Vec::new();
        Splicer::new(kinds::by_resource(resource).expect("known")).write(&mut out, bytes, Revision(7));
        serde_json::from_slice(&out).expect("JSON")
    }

    #[test]
    fn what_is_encoded_comes_back_with_version_and_revision() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"metadata": "\"{"},
            "metadata": {"name": "a", "resourceVersion": "3", "labels": {"x": "y"}}});
        let bytes = encode("ConfigMap", &object);
        assert!(bytes.starts_with(b"{\"kind\":\"ConfigMap\",\"metadata\":{"));
        assert!(!String::from_utf8_lossy(&bytes).contains("resourceVersion"));
        let mut expect = object;
        expect["metadata"]["resourceVersion"] = "7".into();
        assert_eq!(spliced("configmaps", &bytes), expect);
    }

    #[test]
    fn bytes_in_another_order_are_read_too() {
        let seen = spliced("configmaps", br#"{"data":{"a":"b"},"metadata":{"name":"a"}}"#);
        assert_eq!(seen["kind"], "ConfigMap");
        assert_eq!(seen["metadata"], json!({"name": "a", "resourceVersion": "7"}));
        assert_eq!(spliced("configmaps", br#"{"kind":"ConfigMap","metadata":{}}"#)["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn a_second_face_is_converted() {
        let stored = encode("Event", &json!({"metadata": {"name": "e"}, "message": "hello"}));
        assert_eq!(spliced("events", &stored)["message"], "hello");
        let new = spliced("events.events.k8s.io", &stored);
        assert_eq!(new["note"], "hello");
        assert_eq!(new["apiVersion"], "events.k8s.io/v1");
    }
}
