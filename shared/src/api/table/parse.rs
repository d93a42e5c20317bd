//! Reads the table's text.
//!
//! ```text
//! version core/v1 group=""          a package; group= is the API group in URLs
//! type Pod  # kind namespaced sub=scale
//!  name number type marks…          one field: JSON name, protobuf number (- for none), type
//!  <inline> 2 VolumeSource          the fields of VolumeSource stand in the same JSON object
//! ```
//!
//! Marks: `required` (written even when empty), `ptr` (an explicit zero is kept), `patch=` and
//! `key=` (strategic merge), `list=atomic|set|map(keys)`, `map=`, `struct=` (server-side apply),
//! `default=` (JSON), `gate=`. Types: `string bool int32 int64 double bytes time microtime quantity
//! intOrString duration object any`, a type of the same package, `other/v1.Type`, `[]T`, `{}T` (a
//! map with string keys), `string(A|B)`.
//!
//! The text is part of the program, so a mistake in it is a defect of the program: it panics, and
//! the tests parse it.

use super::{Enum, Field, Package, Patch, Schema, Scope, Span, Topology, Type, TypeId, TypeRow};

/// Parses in two passes, because fields name types that come later.
pub(super) fn parse(text: &'static str) -> Schema {
    let mut schema = Schema { packages: Vec::new(), rows: Vec::new(), fields: Vec::new(), types: Vec::new() };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("version ") {
            schema.packages.push(package(rest, schema.rows.len()));
        } else if let Some(rest) = line.strip_prefix("type ") {
            let package = schema.packages.len() as u8 - 1;
            schema.rows.push(type_row(rest, package));
        }
    }
    let mut current = usize::MAX;
    for line in text.lines() {
        if line.starts_with("type ") {
            current = current.wrapping_add(1);
            schema.rows[current].fields = schema.fields.len() as u16;
        } else if let Some(rest) = line.strip_prefix(' ')
            && let Some(field) = field(&mut schema, current, rest)
        {
            schema.fields.push(field);
        }
    }
    schema.fields.shrink_to_fit();
    schema.rows.shrink_to_fit();
    schema.types.shrink_to_fit();
    schema
}

fn package(rest: &'static str, first: usize) -> Package {
    let (path, group) = rest.split_once(" group=").expect("a package line has a path and a group");
    let (_, version) = path.split_once('/').expect("a package path has a version");
    Package {
        path: Span::of(path),
        group: Span::of(group.trim_matches('"')),
        version: Span::of(version),
        first: first as u16,
    }
}

fn type_row(rest: &'static str, package: u8) -> TypeRow {
    let (name, marks) = rest.split_once("  #").unwrap_or((rest, ""));
    let scope = match marks {
        "" => Scope::Part,
        m if m.contains(" namespaced") => Scope::Namespaced,
        m if m.contains(" cluster") => Scope::Cluster,
        _ => Scope::Bare,
    };
    TypeRow { name: Span::of(name), package, scope, fields: 0 }
}

/// `None` for a row without a JSON name (a member that only Go code sees).
fn field(schema: &mut Schema, row: usize, rest: &'static str) -> Option<Field> {
    let mut words = rest.splitn(3, ' ');
    let (name, number) = (words.next()?, words.next()?);
    let (ty, mut marks) = split_type(words.next()?);
    if name == "-" {
        return None;
    }
    let mut field = Field {
        name: Span::of(name),
        key: Span::default(),
        list_keys: Span::default(),
        default: Span::default(),
        ty: type_id(schema, schema.rows[row].package as usize, ty),
        number: number.parse().unwrap_or(0),
        required: false,
        pointer: false,
        inline: name == "<inline>",
        patch: Patch { merge: false, replace: false, retain_keys: false },
        topology: Topology::Unsaid,
    };
    while !marks.is_empty() {
        let (mark, rest) = marks.split_once(' ').unwrap_or((marks, ""));
        apply_mark(&mut field, mark);
        marks = rest;
    }
    Some(field)
}

/// Splits the type from its marks: an enumeration's values may hold spaces.
fn split_type(rest: &'static str) -> (&'static str, &'static str) {
    let space = rest.find(' ').unwrap_or(rest.len());
    let end = match rest.find('(') {
        Some(open) if open < space => rest.find(')').expect("an enumeration is closed") + 1,
        _ => space,
    };
    (&rest[..end], rest[end..].trim_start())
}

fn apply_mark(field: &mut Field, mark: &'static str) {
    let (name, value) = mark.split_once('=').unwrap_or((mark, ""));
    match name {
        "required" => field.required = true,
        "ptr" => field.pointer = true,
        "patch" => {
            field.patch = Patch {
                merge: value.contains("merge"),
                replace: value.contains("replace"),
                retain_keys: value.contains("retainKeys"),
            };
        }
        "key" => field.key = Span::of(value),
        "default" => field.default = Span::of(value),
        "list" | "map" | "struct" => {
            field.topology = match value {
                "atomic" => Topology::Atomic,
                "granular" => Topology::Granular,
                "set" => Topology::Set,
                keys => {
                    let keys = keys
                        .strip_prefix("map(")
                        .and_then(|k| k.strip_suffix(')'))
                        .expect("an associative list names its keys");
                    field.list_keys = Span::of(keys);
                    Topology::Map
                }
            };
        }
        // Feature gates are facts about other servers.
        "gate" => {}
        _ => panic!("the field table has an unknown mark: {mark}"),
    }
}

fn type_id(schema: &mut Schema, package: usize, text: &'static str) -> u16 {
    let ty = if let Some(elem) = text.strip_prefix("[]") {
        Type::List(super::Elem(type_id(schema, package, elem)))
    } else if let Some(elem) = text.strip_prefix("{}") {
        Type::Map(super::Elem(type_id(schema, package, elem)))
    } else if let Some(values) = text.strip_prefix("string(") {
        Type::Enum(Enum(Span::of(&values[..values.len() - 1])))
    } else {
        scalar(text).unwrap_or_else(|| Type::Struct(named(schema, package, text)))
    };
    let known = schema.types.iter().position(|&t| t == ty);
    known.unwrap_or_else(|| {
        schema.types.push(ty);
        schema.types.len() - 1
    }) as u16
}

fn scalar(text: &str) -> Option<Type> {
    Some(match text {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "intOrString" => Type::IntOrString,
        "duration" => Type::Duration,
        "object" => Type::Object,
        "any" | "schemaOrBool" | "schemaOrArray" | "schemaOrStrings" => Type::Any,
        _ => return None,
    })
}

fn named(schema: &Schema, package: usize, text: &str) -> TypeId {
    let found = match text.split_once('.') {
        Some((path, name)) => schema.named_type(path, name),
        None => schema.named(package, text),
    };
    found.unwrap_or_else(|| panic!("the field table names an unknown type: {text}"))
}
