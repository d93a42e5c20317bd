//! The Kubernetes API's generic machinery: pure functions over [`serde_json::Value`], driven by
//! one field table ([`table`], from `kubernetes.fields`).
//!
//! A write goes through them in this order (what each returns is in its own docs):
//!
//! ```text
//! json::read(bytes, json::Limits)              -> Parsed { value, duplicates }
//! protobuf::decode(bytes, expected)            -> Decoded { type_id, value }
//! patch::merge(&mut target, &patch)            RFC 7396
//! patch::json(&mut target, &patch)             -> Result<(), PatchError>      RFC 6902
//! patch::strategic(type_id, &mut target, patch) -> Result<(), PatchError>
//! managed::apply(type_id, &live, &applied, …)   -> Result<Value, Vec<Conflict>>  server-side apply
//! validate::fields(type_id, &mut value, &duplicates, Mode) -> Result<Vec<String> /* warnings */, FieldsError>
//! canonical::object(type_id, &mut value)       quantities, empties and times as upstream prints them
//! defaults::apply(type_id, &mut value)
//! rules::validate(type_id, &new, old)          -> Vec<field::FieldError>
//! status::Status::invalid(kind, name, &errors).to_value()
//! ```
//!
//! Type ids come from `table::schema().kind(group, version, kind) -> Option<TypeId>`.

pub mod canonical;
pub mod defaults;
pub mod field;
pub mod fieldset;
pub mod json;
pub mod managed;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
pub mod rules;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
pub mod validate;
