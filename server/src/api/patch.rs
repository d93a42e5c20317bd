//! The patches that a client may send.

use coracle_shared::api::json::Parsed;
use coracle_shared::api::patch;
use coracle_shared::api::status::Status;
use coracle_shared::api::table::TypeId;
use serde_json::Value;

use super::body::{media, read_json};

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// Server-side apply, which is no change of an object but a statement: see [`super::apply`].
pub const APPLY: &str = "application/apply-patch+yaml";

/// A patch that was read but not applied yet.
pub struct Patch {
    how: How,
    parsed: Parsed,
}

enum How {
    Json,
    Merge,
    Strategic,
}

impl Patch {
    pub fn merge(patch: Value) -> Patch {
        Patch { how: How::Merge, parsed: Parsed { value: patch, duplicates: Vec::new() } }
    }

    pub fn read(content_type: &str, bytes: &[u8]) -> Result<Patch, Status> {
        let how = match media(content_type) {
            JSON => How::Json,
            MERGE => How::Merge,
            STRATEGIC => How::Strategic,
            _ => return Err(Status::unsupported_media_type(&[JSON, MERGE, STRATEGIC, APPLY])),
        };
        Ok(Patch { how, parsed: read_json(bytes)? })
    }

    /// The object after the patch. `id` is the type whose merge rules hold.
    pub fn apply(&self, id: TypeId, object: &Value) -> Result<Parsed, Status> {
        let mut value = object.clone();
        let patch = &self.parsed.value;
        match self.how {
            How::Json => patch::json(&mut value, patch).map_err(|e| e.status())?,
            How::Merge => patch::merge(&mut value, patch),
            How::Strategic => patch::strategic(id, &mut value, patch.clone()).map_err(|e| e.status())?,
        }
        Ok(Parsed { value, duplicates: self.parsed.duplicates.clone() })
    }
}

#[cfg(test)]
mod tests {
    use coracle_shared::api::table::schema;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(content_type: &str, patch: &str, expect: Result<Value, u16>) {
        let id = schema().kind("", "v1", "ConfigMap").expect("known");
        let object = json!({"data": {"a": "1", "b": "2"}});
        let patched = Patch::read(content_type, patch.as_bytes()).and_then(|p| p.apply(id, &object));
        assert_eq!(patched.map(|p| p.value).map_err(|s| s.code), expect);
    }

    #[test]
    fn each_kind_of_patch_is_applied_in_its_own_way() {
        let expect = Ok(json!({"data": {"b": "3"}}));
        check(MERGE, r#"{"data":{"a":null,"b":"3"}}"#, expect.clone());
        check(STRATEGIC, r#"{"data":{"a":null,"b":"3"}}"#, expect.clone());
        let operations = r#"[{"op":"remove","path":"/data/a"},{"op":"replace","path":"/data/b","value":"3"}]"#;
        check(JSON, operations, expect);
    }

    #[test]
    fn others_are_refused() {
        check("application/json", "{}", Err(415));
        check(MERGE, "{", Err(400));
        check(JSON, r#"[{"op":"test","path":"/data/a","value":"9"}]"#, Err(422));
    }
}
