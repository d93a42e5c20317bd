//! Namespace, ConfigMap, Secret, ServiceAccount, Lease: small kinds.

use coracle_store::Class;
use serde_json::{Map, Value, json};

use super::human::age;
use super::{Column, Moment, Rules, View, Write};

const fn column(name: &'static str, kind: &'static str, priority: i32, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority }
}

pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources.",
    priority: 0,
};
pub(super) const AGE: Column = column("Age", "string", 0, "CreationTimestamp is when the server made the object.");

pub(super) fn name(view: &View<'_>) -> Value {
    view.text(&["metadata", "name"]).into()
}

pub(super) fn created(view: &View<'_>, moment: &Moment) -> Value {
    age(view.text(&["metadata", "creationTimestamp"]), moment.now).into()
}

pub(super) fn nothing_to_create(_: &mut Value, _: &Moment) {}
pub(super) fn nothing_to_update(_: &mut Value, _: &Value) {}
pub(super) fn durable(_: &Write<'_>) -> Class {
    Class::Durable
}

/// A kind that the field table says everything about.
pub(super) const PLAIN: Rules = Rules { create: nothing_to_create, update: nothing_to_update, class: durable };

pub(super) const NAMESPACE_COLUMNS: &[Column] =
    &[NAME, column("Status", "string", 0, "The status of the namespace."), AGE];

pub(super) fn namespace_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), view.text(&["status", "phase"]).into(), created(view, moment)]
}

pub(super) const NAMESPACE: Rules = Rules { create: create_namespace, update: update_namespace, class: durable };

/// The finalizer in `spec` that the namespace controller takes away once the namespace is empty.
const NAMESPACE_FINALIZER: &str = "kubernetes";

/// The label by which selectors find a namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn create_namespace(object: &mut Value, _: &Moment) {
    object["status"] = json!({"phase": "Active"});
    let finalizers = object["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    if !finalizers.iter().any(|f| f == NAMESPACE_FINALIZER) {
        let mut finalizers = finalizers;
        finalizers.push(NAMESPACE_FINALIZER.into());
        object["spec"]["finalizers"] = finalizers.into();
    }
    label_with_name(object);
}

fn update_namespace(object: &mut Value, old: &Value) {
    // Only /finalize changes the finalizers in spec, and only /status the phase.
    object["spec"] = old.get("spec").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    label_with_name(object);
}

fn label_with_name(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    if !name.is_null() {
        object["metadata"]["labels"][NAME_LABEL] = name;
    }
}

pub(super) const CONFIG_MAP_COLUMNS: &[Column] =
    &[NAME, column("Data", "string", 0, "The number of entries in data and binaryData."), AGE];

pub(super) fn config_map_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let entries = view.size(&["data"]) + view.size(&["binaryData"]);
    vec![name(view), entries.to_string().into(), created(view, moment)]
}

pub(super) const SECRET_COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", 0, "Used to facilitate programmatic handling of secret data."),
    column("Data", "string", 0, "The number of entries in data."),
    AGE,
];

pub(super) fn secret_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), view.text(&["type"]).into(), view.size(&["data"]).to_string().into(), created(view, moment)]
}

pub(super) const SECRET: Rules = Rules { create: create_secret, update: update_secret, class: durable };

fn create_secret(object: &mut Value, _: &Moment) {
    encode_string_data(object);
}

fn update_secret(object: &mut Value, _: &Value) {
    encode_string_data(object);
}

/// `stringData` is a convenience for writers: it goes into `data`, and is never answered.
fn encode_string_data(object: &mut Value) {
    use base64::Engine as _;
    let Some(fields) = object.as_object_mut() else { return };
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    for (key, text) in texts {
        let text = text.as_str().unwrap_or_default();
        data[key] = base64::engine::general_purpose::STANDARD.encode(text).into();
    }
}

pub(super) const SERVICE_ACCOUNT_COLUMNS: &[Column] =
    &[NAME, column("Secrets", "string", 0, "The number of secrets that pods of this account may use."), AGE];

pub(super) fn service_account_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), view.list(&["secrets"]).len().to_string().into(), created(view, moment)]
}

pub(super) const LEASE_COLUMNS: &[Column] =
    &[NAME, column("Holder", "string", 0, "The identity of the holder of the lease."), AGE];

pub(super) fn lease_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), view.text(&["spec", "holderIdentity"]).into(), created(view, moment)]
}

pub(super) const LEASE: Rules = Rules { create: nothing_to_create, update: nothing_to_update, class: lease_class };

/// A renewal by the same holder is not worth a write to the disk.
fn lease_class(write: &Write<'_>) -> Class {
    let Some(old) = write.old else { return Class::Durable };
    let bare = |lease: &Value| {
        let mut spec = lease["spec"].clone();
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("renewTime");
        }
        spec
    };
    if bare(old) == bare(write.new) && same_but_spec(old, write.new) { Class::Volatile } else { Class::Durable }
}

fn same_but_spec(old: &Value, new: &Value) -> bool {
    let meta = |o: &Value| {
        let mut meta = o["metadata"].clone();
        if let Some(meta) = meta.as_object_mut() {
            meta.remove("resourceVersion");
            meta.remove("managedFields");
        }
        meta
    };
    meta(old) == meta(new)
}

pub(super) const fn wide(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 1, description)
}

pub(super) const fn plain(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 0, description)
}

pub(super) const fn number(name: &'static str, description: &'static str) -> Column {
    column(name, "integer", 0, description)
}
