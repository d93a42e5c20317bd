//! The field table: every type, field, field number and merge rule of the API, parsed once from
//! `kubernetes.fields` (its notation is described at the head of [`parse`]).
//!
//! Names are spans into the embedded text and types are 16-bit ids, so that the parsed table takes
//! well under 150 KiB beside the text itself (the unit tests hold it to that).

use std::sync::OnceLock;

mod parse;

/// The embedded text. It is data, kept beside this file.
static TEXT: &str = include_str!("kubernetes.fields");

/// The table's text: what a hash over everything generated from it begins with.
pub(super) fn text() -> &'static str {
    TEXT
}

/// A piece of [`TEXT`]: 20 bits of offset, 12 bits of length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span(u32);

/// Bits of a [`Span`] that hold its length.
const SPAN_LENGTH_BITS: u32 = 12;

impl Span {
    /// The span of `part`, which lies in `TEXT`; empty when it is too long to be a name.
    fn of(part: &'static str) -> Span {
        let offset = part.as_ptr() as usize - TEXT.as_ptr() as usize;
        assert!(
            part.len() < 1 << SPAN_LENGTH_BITS && offset < 1 << (32 - SPAN_LENGTH_BITS),
            "the field table holds a name too long or too far in: {part}"
        );
        Span((offset as u32) << SPAN_LENGTH_BITS | part.len() as u32)
    }

    fn text(self) -> &'static str {
        let offset = (self.0 >> SPAN_LENGTH_BITS) as usize;
        let length = (self.0 & ((1 << SPAN_LENGTH_BITS) - 1)) as usize;
        &TEXT[offset..offset + length]
    }

    /// Whether the piece is this text; most are told apart by their length.
    fn is(self, text: &str) -> bool {
        (self.0 & ((1 << SPAN_LENGTH_BITS) - 1)) as usize == text.len() && self.text() == text
    }
}

/// A type of the table, as a handle: its fields and facts are methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(u16);

/// A list's or map's element type, as a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Elem(u16);

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    String,
    Int32,
    Int64,
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// Go's notation, `1h30m`.
    Duration,
    /// Any JSON object, kept as it is.
    Object,
    /// Any JSON value, kept as it is.
    Any,
    Enum(Enum),
    Struct(TypeId),
    List(Elem),
    /// String keys.
    Map(Elem),
}

/// A closed set of strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enum(Span);

impl Enum {
    /// The values, in the table's order.
    pub fn values(self) -> impl Iterator<Item = &'static str> {
        self.0.text().split('|')
    }

    pub fn contains(self, value: &str) -> bool {
        self.values().any(|v| v == value)
    }
}

impl Elem {
    /// The element's type.
    pub fn ty(self) -> Type {
        schema().types[self.0 as usize]
    }
}

/// Where a field or a list stands in strategic merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Lists are merged by [`Field::merge_key`] (or as sets of primitives without one).
    pub merge: bool,
    /// An object is replaced as a whole.
    pub replace: bool,
    /// The patch names, in `$retainKeys`, which keys may stay.
    pub retain_keys: bool,
}

/// How server-side apply sees a list, a map or a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Not said in the table: lists are atomic, maps and structs granular.
    Unsaid,
    Atomic,
    Granular,
    Set,
    /// An associative list: the keys are [`Field::list_keys`].
    Map,
}

/// A field of a type.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    name: Span,
    /// Merge key of strategic merge; empty: none.
    key: Span,
    /// Keys of an associative list, comma-separated; empty: none.
    list_keys: Span,
    /// The default's JSON text; empty: none.
    default: Span,
    ty: u16,
    /// 0: the field has no protobuf form.
    number: u16,
    required: bool,
    pointer: bool,
    inline: bool,
    patch: Patch,
    topology: Topology,
}

impl Field {
    /// The JSON name; empty for an inlined struct.
    pub fn name(&self) -> &'static str {
        if self.inline { "" } else { self.name.text() }
    }

    pub fn ty(&self) -> Type {
        schema().types[self.ty as usize]
    }

    /// The protobuf number, when the field has a protobuf form.
    pub fn number(&self) -> Option<u32> {
        (self.number != 0).then_some(u32::from(self.number))
    }

    /// Upstream writes the field even when it is empty (it is not `omitempty`). That a value *must*
    /// be given is a rule of the kind.
    pub fn required(&self) -> bool {
        self.required
    }

    /// Upstream tells an explicit zero (`0`, `false`, `""`) from absence and keeps it.
    pub fn pointer(&self) -> bool {
        self.pointer
    }

    /// The struct's fields stand in the same JSON object.
    pub fn inline(&self) -> bool {
        self.inline
    }

    pub fn patch(&self) -> Patch {
        self.patch
    }

    pub fn merge_key(&self) -> Option<&'static str> {
        Some(self.key.text()).filter(|k| !k.is_empty())
    }

    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The keys of an associative list.
    pub fn list_keys(&self) -> impl Iterator<Item = &'static str> {
        self.list_keys.text().split(',').filter(|k| !k.is_empty())
    }

    /// The default that the table itself knows, as JSON text (`"TCP"` with its quotes, `1`).
    pub fn default(&self) -> Option<&'static str> {
        Some(self.default.text()).filter(|d| !d.is_empty())
    }
}

/// What kind of thing a type is in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Only a part of others.
    Part,
    /// A kind without a resource of its own in a path: options, Status, Scale.
    Bare,
    Cluster,
    Namespaced,
}

#[derive(Debug)]
struct TypeRow {
    name: Span,
    package: u8,
    scope: Scope,
    /// Index of the first field; the last one is where the next type's begin.
    fields: u16,
}

#[derive(Debug)]
struct Package {
    /// `core/v1`: the name in type references.
    path: Span,
    group: Span,
    version: Span,
    /// Index of the package's first type.
    first: u16,
}

/// Groups and beta versions that old clients ask for, with the fields of `v1`.
const BETAS: &[(&str, &str)] = &[("batch", "v1beta1"), ("policy", "v1beta1")];

/// The whole table.
#[derive(Debug)]
pub struct Schema {
    packages: Vec<Package>,
    rows: Vec<TypeRow>,
    fields: Vec<Field>,
    types: Vec<Type>,
}

/// The table, parsed on first use (about a millisecond).
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| parse::parse(TEXT))
}

impl Schema {
    /// The type of a kind. `group` is empty for the core group. Kinds of `meta/v1` (DeleteOptions,
    /// Status) are found under any group and version, as upstream registers them everywhere.
    /// Beta versions that differ from the stable one in name alone are of its type.
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        let version = if BETAS.contains(&(group, version)) { "v1" } else { version };
        self.packages
            .iter()
            .position(|p| p.group.is(group) && p.version.is(version))
            .and_then(|package| self.named(package, kind))
            .or_else(|| self.named(0, kind))
            .filter(|id| id.scope() != Scope::Part || kind.ends_with("List"))
    }

    /// The type `name` of the package `path` (`core/v1`, `PodSpec`).
    pub fn named_type(&self, path: &str, name: &str) -> Option<TypeId> {
        let package = self.packages.iter().position(|p| p.path.text() == path)?;
        self.named(package, name)
    }

    /// Every type, in the table's order.
    pub fn all(&self) -> impl Iterator<Item = TypeId> + use<> {
        (0..self.rows.len() as u16).map(TypeId)
    }

    fn named(&self, package: usize, name: &str) -> Option<TypeId> {
        let first = self.packages[package].first as usize;
        let end = (self.packages.get(package + 1)).map_or(self.rows.len(), |p| p.first as usize);
        (first..end).find(|&i| self.rows[i].name.is(name)).map(|i| TypeId(i as u16))
    }

    /// Bytes of memory the parsed table holds, beside the text in the program.
    pub fn resident(&self) -> usize {
        size_of_val(&self.packages[..])
            + size_of_val(&self.rows[..])
            + size_of_val(&self.fields[..])
            + size_of_val(&self.types[..])
    }
}

impl TypeId {
    fn row(self) -> &'static TypeRow {
        &schema().rows[self.0 as usize]
    }

    fn package(self) -> &'static Package {
        &schema().packages[self.row().package as usize]
    }

    pub fn name(self) -> &'static str {
        self.row().name.text()
    }

    /// The API group; empty for core, `meta.k8s.io` for what all groups share.
    pub fn group(self) -> &'static str {
        self.package().group.text()
    }

    pub fn version(self) -> &'static str {
        self.package().version.text()
    }

    /// The package's path, `core/v1`.
    pub fn package_path(self) -> &'static str {
        self.package().path.text()
    }

    pub fn scope(self) -> Scope {
        self.row().scope
    }

    /// The type's own rows, inlined structs as rows of their own.
    pub fn rows(self) -> &'static [Field] {
        let schema = schema();
        let next = schema.rows.get(self.0 as usize + 1);
        let end = next.map_or(schema.fields.len(), |r| r.fields as usize);
        &schema.fields[self.row().fields as usize..end]
    }

    /// Calls `visit` with every field of the JSON object, those of inlined structs in their place.
    pub fn each_field(self, visit: &mut dyn FnMut(&'static Field)) {
        for field in self.rows() {
            match (field.inline, field.ty()) {
                (true, Type::Struct(inner)) => inner.each_field(visit),
                _ => visit(field),
            }
        }
    }

    /// The field with this JSON name, inlined structs included.
    pub fn field(self, name: &str) -> Option<&'static Field> {
        self.rows().iter().find_map(|field| match (field.inline, field.ty()) {
            (true, Type::Struct(inner)) => inner.field(name),
            (true, _) => None,
            (false, _) => field.name.is(name).then_some(field),
        })
    }
}

#[cfg(test)]
mod tests;
