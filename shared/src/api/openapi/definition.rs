//! One type as a schema.

use serde_json::{Map, Value, json};

use super::{Dialect, Served, is_kind};
use crate::api::table::{Field, Topology, Type, TypeId};

const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The definition's name, as upstream's documents have it: `io.k8s.api.core.v1.Pod`.
pub(super) fn name(id: TypeId) -> String {
    let package = match id.package_path() {
        "meta/v1" => "io.k8s.apimachinery.pkg.apis.meta.v1".to_string(),
        "apiextensions/v1" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1".to_string(),
        path => format!("io.k8s.api.{}", path.replace('/', ".")),
    };
    format!("{package}.{}", id.name())
}

/// The groups, versions and kinds that a type stands for. What all groups share (DeleteOptions)
/// stands for itself in each served one.
pub(super) fn kinds(id: TypeId, served: &[Served<'_>]) -> Vec<Value> {
    let gvk = |group: &str, version: &str| json!({"group": group, "kind": id.name(), "version": version});
    match (is_kind(id), id.package_path(), id.name()) {
        (false, _, _) => Vec::new(),
        (true, "meta/v1", "Status") => vec![gvk("", "v1")],
        (true, "meta/v1", _) => {
            let mut groups: Vec<(&str, &str)> = served.iter().map(|s| (s.group, s.version)).collect();
            groups.sort_unstable();
            groups.dedup();
            groups.into_iter().map(|(group, version)| gvk(group, version)).collect()
        }
        _ => vec![gvk(id.group(), id.version())],
    }
}

/// The schema of a struct.
pub(super) fn definition(id: TypeId, kinds: &[Value], dialect: Dialect) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    id.each_field(&mut |field| {
        properties.insert(field.name().to_string(), property(field, dialect));
        if field.required() {
            required.push(Value::from(field.name()));
        }
    });
    let mut schema = json!({"type": "object"});
    if !properties.is_empty() {
        schema["properties"] = Value::Object(properties);
    }
    if !required.is_empty() {
        schema["required"] = Value::Array(required);
    }
    if !kinds.is_empty() {
        schema["x-kubernetes-group-version-kind"] = kinds.into();
    }
    schema
}

/// The definitions of scalars that have a name.
pub(super) fn scalars(dialect: Dialect) -> impl Iterator<Item = (String, Value)> {
    let time = json!({"type": "string", "format": "date-time"});
    let (quantity, int_or_string) = match dialect {
        Dialect::V2 => (json!({"type": "string"}), json!({"type": "string", "format": "int-or-string"})),
        Dialect::V3 => (
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
        ),
    };
    [(TIME, time.clone()), (MICRO_TIME, time), (QUANTITY, quantity), (INT_OR_STRING, int_or_string)]
        .into_iter()
        .map(|(name, schema)| (name.to_string(), schema))
}

fn property(field: &Field, dialect: Dialect) -> Value {
    let extensions = extensions(field);
    let mut schema = of_type(field.ty(), dialect);
    if extensions.is_empty() {
        return schema;
    }
    // In version 3 what stands beside a reference does not count.
    if dialect == Dialect::V3 && schema.get("$ref").is_some() {
        schema = json!({"allOf": [schema]});
    }
    if let Value::Object(schema) = &mut schema {
        schema.extend(extensions);
    }
    schema
}

fn extensions(field: &Field) -> Map<String, Value> {
    let mut extensions = Map::new();
    let patch = field.patch();
    let strategies = [(patch.merge, "merge"), (patch.replace, "replace"), (patch.retain_keys, "retainKeys")];
    let strategies: Vec<&str> = strategies.iter().filter(|(said, _)| *said).map(|(_, name)| *name).collect();
    if !strategies.is_empty() {
        extensions.insert("x-kubernetes-patch-strategy".into(), strategies.join(",").into());
    }
    if let Some(key) = field.merge_key() {
        extensions.insert("x-kubernetes-patch-merge-key".into(), key.into());
    }
    let topology = match field.topology() {
        Topology::Unsaid => return extensions,
        Topology::Atomic => "atomic",
        Topology::Granular => "granular",
        Topology::Set => "set",
        Topology::Map => "map",
    };
    match field.ty() {
        Type::List(_) => {
            extensions.insert("x-kubernetes-list-type".into(), topology.into());
            let keys: Vec<Value> = field.list_keys().map(Value::from).collect();
            if !keys.is_empty() {
                extensions.insert("x-kubernetes-list-map-keys".into(), keys.into());
            }
        }
        _ => {
            extensions.insert("x-kubernetes-map-type".into(), topology.into());
        }
    }
    extensions
}

/// A reference to the definition of a type.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    json!({"$ref": format!("{}{name}", dialect.refs())})
}

fn of_type(ty: Type, dialect: Dialect) -> Value {
    match ty {
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::String | Type::Duration => json!({"type": "string"}),
        Type::Enum(values) => json!({"type": "string", "enum": values.values().collect::<Vec<_>>()}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Object => json!({"type": "object"}),
        Type::Any => json!({}),
        Type::Time => reference(TIME, dialect),
        Type::MicroTime => reference(MICRO_TIME, dialect),
        Type::Quantity => reference(QUANTITY, dialect),
        Type::IntOrString => reference(INT_OR_STRING, dialect),
        Type::Struct(id) => reference(&name(id), dialect),
        Type::List(elem) => json!({"type": "array", "items": of_type(elem.ty(), dialect)}),
        Type::Map(elem) => json!({"type": "object", "additionalProperties": of_type(elem.ty(), dialect)}),
    }
}
