//! The OpenAPI documents, generated from the field table and the list of served kinds.
//!
//! Every document is written definition by definition and path by path, so that no more than one of
//! them is in memory as a value. kubectl needs of them: schemas with merge keys and
//! `x-kubernetes-group-version-kind`, and `fieldValidation` and `dryRun` on PATCH operations.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::table::{Scope, Type, TypeId, schema};

mod definition;
mod gnostic;
mod paths;

/// The media type that kubectl 1.20 asks version 2 in, alone.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The `Content-Type` to answer [`V2_PROTOBUF`] with: Go's clients cannot parse the one with `@`.
pub const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// One served kind.
#[derive(Clone, Debug)]
pub struct Served<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub plural: &'a str,
    pub namespaced: bool,
    /// `get list watch create update patch delete deletecollection`, those that are served.
    pub verbs: &'a [&'a str],
    pub subresources: &'a [Subresource<'a>],
}

/// A served subresource: its own kind may be of another group (`Scale` of `autoscaling/v1`).
#[derive(Clone, Debug)]
pub struct Subresource<'a> {
    /// `status`
    pub name: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub verbs: &'a [&'a str],
}

/// The two dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// What a reference to a definition begins with.
    fn refs(self) -> &'static str {
        match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        }
    }
}

/// Path of a group and version: `api/v1`, `apis/apps/v1`.
fn group_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// Writes the version 2 document as JSON. `release` is what `/version` answers as gitVersion.
pub fn v2_json(served: &[Served<'_>], release: &str, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{{\"swagger\":\"2.0\",\"info\":{},\"paths\":{{", info(release))?;
    let mut first = true;
    for kind in served {
        for (path, item) in paths::items(kind, Dialect::V2) {
            member(out, &mut first, &path, &item)?;
        }
    }
    write!(out, "}},\"definitions\":{{")?;
    first = true;
    for (name, value) in definitions(served, Dialect::V2) {
        member(out, &mut first, &name, &value)?;
    }
    write!(out, "}}}}")
}

/// Writes the version 2 document as gnostic's `openapi.v2.Document` message, which is all that
/// kubectl 1.20 reads.
pub fn v2_protobuf(served: &[Served<'_>], release: &str, out: &mut impl Write) -> io::Result<()> {
    let all_paths = || served.iter().flat_map(|kind| paths::items(kind, Dialect::V2));
    gnostic::document(out, release, &all_paths, &|| definitions(served, Dialect::V2))
}

/// Writes version 3's index: one document a group and version, each with a hash that changes with
/// what is served.
pub fn v3_index(served: &[Served<'_>], release: &str, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{{\"paths\":{{")?;
    let mut first = true;
    let mut done = BTreeSet::new();
    for kind in served {
        let path = group_path(kind.group, kind.version);
        if done.insert(path.clone()) {
            let hash = v3_hash(served, kind.group, kind.version, release);
            let url = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash:016X}")});
            member(out, &mut first, &path, &url)?;
        }
    }
    write!(out, "}}}}")
}

/// The hash of one version 3 document, also good for its ETag. It changes whenever the document may:
/// with what is served, with the table and with the release.
pub fn v3_hash(served: &[Served<'_>], group: &str, version: &str, release: &str) -> u64 {
    let of_group = served.iter().filter(|s| s.group == group && s.version == version);
    let described = format!("{release} {:?}", of_group.collect::<Vec<_>>());
    // FNV-1a: tells documents apart, no more.
    let bytes = described.bytes().chain(super::table::text().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Writes version 3's document of one group and version. Returns false, having written nothing, when
/// none of it is served.
pub fn v3_document(
    served: &[Served<'_>],
    group: &str,
    version: &str,
    release: &str,
    out: &mut impl Write,
) -> io::Result<bool> {
    let of_group: Vec<Served<'_>> =
        served.iter().filter(|s| s.group == group && s.version == version).cloned().collect();
    if of_group.is_empty() {
        return Ok(false);
    }
    write!(out, "{{\"openapi\":\"3.0.0\",\"info\":{},\"paths\":{{", info(release))?;
    let mut first = true;
    for kind in &of_group {
        for (path, item) in paths::items(kind, Dialect::V3) {
            member(out, &mut first, &path, &item)?;
        }
    }
    write!(out, "}},\"components\":{{\"schemas\":{{")?;
    first = true;
    for (name, value) in definitions(&of_group, Dialect::V3) {
        member(out, &mut first, &name, &value)?;
    }
    write!(out, "}}}}}}")?;
    Ok(true)
}

fn info(release: &str) -> Value {
    json!({"title": "Kubernetes", "version": release})
}

fn member(out: &mut impl Write, first: &mut bool, name: &str, value: &Value) -> io::Result<()> {
    if !std::mem::take(first) {
        out.write_all(b",")?;
    }
    write!(out, "{}:{value}", Value::from(name))
}

/// The definitions that the served kinds reach, one at a time.
fn definitions<'s>(served: &'s [Served<'_>], dialect: Dialect) -> impl Iterator<Item = (String, Value)> + use<'s> {
    let types = reachable(served);
    let structs = types.into_iter().map(move |id| {
        let kinds = definition::kinds(id, served);
        (definition::name(id), definition::definition(id, &kinds, dialect))
    });
    structs.chain(definition::scalars(dialect))
}

/// Every type that the served kinds are made of, with their lists and what requests and answers need.
fn reachable(served: &[Served<'_>]) -> BTreeSet<TypeId> {
    let schema = schema();
    let mut found = BTreeSet::new();
    let mut next: Vec<TypeId> = ["DeleteOptions", "Status", "Patch", "WatchEvent"]
        .iter()
        .filter_map(|name| schema.named_type("meta/v1", name))
        .collect();
    for kind in served {
        next.extend(schema.kind(kind.group, kind.version, kind.kind));
        next.extend(schema.kind(kind.group, kind.version, &format!("{}List", kind.kind)));
        next.extend(kind.subresources.iter().filter_map(|s| schema.kind(s.group, s.version, s.kind)));
    }
    while let Some(id) = next.pop() {
        if found.insert(id) {
            id.each_field(&mut |field| next.extend(struct_of(field.ty())));
        }
    }
    found
}

fn struct_of(ty: Type) -> Option<TypeId> {
    match ty {
        Type::Struct(id) => Some(id),
        Type::List(elem) | Type::Map(elem) => struct_of(elem.ty()),
        _ => None,
    }
}

/// A type that stands for itself in a request or answer.
fn is_kind(id: TypeId) -> bool {
    id.scope() != Scope::Part || (id.name().ends_with("List") && id.field("items").is_some())
}

#[cfg(test)]
mod tests;
