//! Sets of fields, as server-side apply keeps them for each manager: pure.
//!
//! A set is a tree of path elements in upstream's notation (`FieldsV1`): `f:NAME` a field or map key,
//! `k:{…}` an item of an associative list by its keys, `v:VALUE` a member of a set, and `.` that the
//! place itself is owned, not only what lies below it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::table::{Elem, Field, Topology, Type, TypeId};

/// Depth of a set: as deep as JSON bodies may be.
const MAX_DEPTH: usize = 64;

/// A tree of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// The place itself.
    pub own: bool,
    pub below: BTreeMap<String, FieldSet>,
}

/// Types that upstream marks as owned whole, wherever they stand: references and selectors.
const ATOMIC: &[(&str, &str)] = &[
    ("meta/v1", "LabelSelector"),
    ("core/v1", "ConfigMapKeySelector"),
    ("core/v1", "LocalObjectReference"),
    ("core/v1", "NodeSelector"),
    ("core/v1", "NodeSelectorTerm"),
    ("core/v1", "ObjectFieldSelector"),
    ("core/v1", "ObjectReference"),
    ("core/v1", "ResourceFieldSelector"),
    ("core/v1", "ScopedResourceSelectorRequirement"),
    ("core/v1", "ScopeSelector"),
    ("core/v1", "SecretKeySelector"),
    ("core/v1", "SecretReference"),
    ("core/v1", "TopologySelectorTerm"),
    ("core/v1", "TypedLocalObjectReference"),
    ("rbac/v1", "RoleRef"),
    ("rbac/v1", "Subject"),
];

/// What a value is to server-side apply.
#[derive(Clone, Copy)]
enum Shape<'f> {
    /// Owned as a whole.
    Atomic,
    Struct(TypeId),
    Map(Elem),
    Set,
    Associative(&'f Field, Elem),
    /// Fields of their own, of no known type.
    Free,
}

fn shape(field: Option<&Field>, ty: Type) -> Shape<'_> {
    let topology = field.map_or(Topology::Unsaid, Field::topology);
    let whole = |id: TypeId| ATOMIC.contains(&(id.package_path(), id.name()));
    match (ty, topology) {
        (Type::Struct(id), Topology::Unsaid) if whole(id) => Shape::Atomic,
        (Type::Struct(_) | Type::Map(_), Topology::Atomic) => Shape::Atomic,
        (Type::Struct(id), _) => Shape::Struct(id),
        (Type::Map(elem), _) => Shape::Map(elem),
        (Type::List(_), Topology::Set) => Shape::Set,
        (Type::List(elem), Topology::Map) => match field {
            Some(field) => Shape::Associative(field, elem),
            None => Shape::Atomic,
        },
        (Type::Object | Type::Any, Topology::Granular | Topology::Unsaid) => Shape::Free,
        _ => Shape::Atomic,
    }
}

/// The element of an item of an associative list; keys that are absent take their default.
fn item_key(field: &Field, elem: Elem, item: &Value) -> String {
    let mut keys = Map::new();
    for name in field.list_keys() {
        let default = || match elem.ty() {
            Type::Struct(id) => {
                id.field(name).and_then(Field::default).and_then(|text| serde_json::from_str(text).ok())
            }
            _ => None,
        };
        if let Some(value) = item.get(name).cloned().or_else(default) {
            keys.insert(name.to_owned(), value);
        }
    }
    // The keys in the order of their names, as upstream writes them.
    let sorted: BTreeMap<String, Value> = keys.into_iter().collect();
    format!("k:{}", serde_json::to_string(&sorted).unwrap_or_default())
}

fn member_key(item: &Value) -> String {
    format!("v:{item}")
}

/// Fields that no manager owns: they name the object or are the server's.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
    "generateName",
];

impl FieldSet {
    /// Every field that an object has, but those that no manager owns.
    pub fn of(id: TypeId, object: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        set.add_members(Shape::Struct(id), object);
        set.below.remove("f:apiVersion");
        set.below.remove("f:kind");
        if let Some(metadata) = set.below.get_mut("f:metadata") {
            UNOWNED.iter().for_each(|field| drop(metadata.below.remove(&format!("f:{field}"))));
            if metadata.below.is_empty() {
                set.below.remove("f:metadata");
            }
        }
        set
    }

    fn add(&mut self, shape: Shape<'_>, value: &Value) {
        let before = self.below.len();
        self.add_members(shape, value);
        // What holds nothing stands for itself.
        self.own |= self.below.len() == before;
    }

    fn add_members(&mut self, shape: Shape<'_>, value: &Value) {
        for (key, shape, member) in members(shape, value) {
            let item = key.starts_with("k:");
            let below = self.below.entry(key).or_default();
            below.add(shape, member);
            below.own |= item;
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.own && self.below.is_empty()
    }

    pub fn union(&mut self, other: &FieldSet) {
        self.own |= other.own;
        for (key, set) in &other.below {
            self.below.entry(key.clone()).or_default().union(set);
        }
    }

    /// What is in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let both = self.below.iter().filter_map(|(key, set)| Some((key, set.intersection(other.below.get(key)?))));
        let below = both.filter(|(_, set)| !set.is_empty()).map(|(key, set)| (key.clone(), set)).collect();
        FieldSet { own: self.own && other.own, below }
    }

    /// What is in this one alone.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let rest = self.below.iter().map(|(key, set)| match other.below.get(key) {
            Some(other) => (key.clone(), set.difference(other)),
            None => (key.clone(), set.clone()),
        });
        FieldSet { own: self.own && !other.own, below: rest.filter(|(_, set)| !set.is_empty()).collect() }
    }

    /// As `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut all = Map::new();
        if self.own && !self.below.is_empty() {
            all.insert(".".into(), Value::Object(Map::new()));
        }
        for (key, set) in &self.below {
            all.insert(key.clone(), set.to_value());
        }
        Value::Object(all)
    }

    /// From `fieldsV1`; what is no element of a path is left out.
    pub fn from_value(value: &Value) -> FieldSet {
        let mut set = FieldSet::read(value, 0);
        // The object as a whole belongs to nobody.
        set.own = false;
        set
    }

    fn read(value: &Value, depth: usize) -> FieldSet {
        let none = Map::new();
        let all = value.as_object().unwrap_or(&none);
        let mut set = FieldSet { own: all.is_empty() || all.contains_key("."), below: BTreeMap::new() };
        for (key, value) in all.iter().filter(|_| depth < MAX_DEPTH) {
            if key.starts_with("f:") || key.starts_with("k:") || key.starts_with("v:") {
                set.below.insert(key.clone(), FieldSet::read(value, depth + 1));
            }
        }
        set
    }

    /// The paths of everything owned, as refusals name them: `.spec.ports[port=80].name`.
    pub fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.collect(String::new(), &mut all);
        all
    }

    fn collect(&self, path: String, all: &mut Vec<String>) {
        for (key, set) in &self.below {
            let (kind, rest) = key.split_at(2);
            let step = match kind {
                "f:" => format!(".{rest}"),
                "v:" => format!("[={rest}]"),
                _ => {
                    let keys: BTreeMap<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                    let words: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                    format!("[{}]", words.join(","))
                }
            };
            set.collect(format!("{path}{step}"), all);
        }
        if self.own {
            all.push(path);
        }
    }
}

/// The members of a value, each with its path element and shape. Atoms have none.
fn members<'v>(of: Shape<'v>, value: &'v Value) -> Vec<(String, Shape<'v>, &'v Value)> {
    match (of, value) {
        (Shape::Struct(id), Value::Object(map)) => map
            .iter()
            .filter_map(|(name, value)| {
                let field = id.field(name)?;
                Some((format!("f:{name}"), shape(Some(field), field.ty()), value))
            })
            .collect(),
        (Shape::Map(elem), Value::Object(map)) => {
            map.iter().map(|(name, value)| (format!("f:{name}"), shape(None, elem.ty()), value)).collect()
        }
        (Shape::Free, Value::Object(map)) => {
            map.iter().map(|(name, value)| (format!("f:{name}"), Shape::Free, value)).collect()
        }
        (Shape::Set, Value::Array(list)) => list.iter().map(|item| (member_key(item), Shape::Atomic, item)).collect(),
        (Shape::Associative(field, elem), Value::Array(list)) => {
            list.iter().map(|item| (item_key(field, elem, item), shape(None, elem.ty()), item)).collect()
        }
        _ => Vec::new(),
    }
}

/// What a change of an object does: fields that are new or have another value, and fields that are gone.
pub fn compare(id: TypeId, old: &Value, new: &Value) -> (FieldSet, FieldSet) {
    let (mut changed, mut gone) = (FieldSet::default(), FieldSet::default());
    differ(Shape::Struct(id), old, new, &mut changed, &mut gone);
    // What no manager owns is in neither.
    let owned = FieldSet::of(id, new);
    (changed.intersection(&owned), gone.intersection(&FieldSet::of(id, old)))
}

fn differ(of: Shape<'_>, old: &Value, new: &Value, changed: &mut FieldSet, gone: &mut FieldSet) {
    let (before, after) = (members(of, old), members(of, new));
    if before.is_empty() || after.is_empty() {
        if old != new {
            changed.add(of, new);
            gone.union(&{
                let mut all = FieldSet::default();
                all.add_members(of, old);
                all
            });
        }
        return;
    }
    let known: BTreeMap<&str, &Value> = before.iter().map(|(key, _, value)| (key.as_str(), *value)).collect();
    let kept: std::collections::BTreeSet<&str> = after.iter().map(|(key, _, _)| key.as_str()).collect();
    for (key, shape, value) in &after {
        let (mut new_below, mut gone_below) = (FieldSet::default(), FieldSet::default());
        match known.get(key.as_str()) {
            Some(old) if old == value => continue,
            Some(old) => differ(*shape, old, value, &mut new_below, &mut gone_below),
            None => {
                new_below.add(*shape, value);
                new_below.own |= key.starts_with("k:");
            }
        }
        for (set, below) in [(&mut *changed, new_below), (&mut *gone, gone_below)] {
            if !below.is_empty() {
                set.below.insert(key.clone(), below);
            }
        }
    }
    for (key, shape, value) in before.iter().filter(|(key, _, _)| !kept.contains(key.as_str())) {
        let below = gone.below.entry(key.clone()).or_default();
        below.add(*shape, value);
        below.own |= key.starts_with("k:");
    }
}

/// Lays what someone applies over an object.
pub fn merge(id: TypeId, object: &mut Value, applied: &Value) {
    lay(Shape::Struct(id), object, applied);
}

fn lay(of: Shape<'_>, target: &mut Value, applied: &Value) {
    match (of, &mut *target, applied) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Free, Value::Object(map), Value::Object(new)) => {
            for (name, value) in new {
                let below = match of {
                    Shape::Struct(id) => id.field(name).map_or(Shape::Atomic, |field| shape(Some(field), field.ty())),
                    Shape::Map(elem) => shape(None, elem.ty()),
                    other => other,
                };
                match map.get_mut(name) {
                    Some(old) => lay(below, old, value),
                    None => drop(map.insert(name.clone(), value.clone())),
                }
            }
        }
        (Shape::Set, Value::Array(list), Value::Array(new)) => {
            let more: Vec<Value> = new.iter().filter(|item| !list.contains(item)).cloned().collect();
            list.extend(more);
        }
        (Shape::Associative(field, elem), Value::Array(list), Value::Array(new)) => {
            for item in new {
                let key = item_key(field, elem, item);
                match list.iter_mut().find(|old| item_key(field, elem, old) == key) {
                    Some(old) => lay(shape(None, elem.ty()), old, item),
                    None => list.push(item.clone()),
                }
            }
        }
        _ => *target = applied.clone(),
    }
}

/// Takes fields out of an object, but what `kept` holds.
pub fn prune(id: TypeId, object: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    take(Shape::Struct(id), object, gone, kept);
}

fn take(of: Shape<'_>, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    let nothing = FieldSet::default();
    for (key, below) in &gone.below {
        let others = kept.below.get(key).unwrap_or(&nothing);
        let whole = below.own && others.is_empty();
        match (of, &mut *value) {
            (Shape::Struct(_) | Shape::Map(_) | Shape::Free, Value::Object(map)) => {
                let name = &key[2..];
                let shape = match of {
                    Shape::Struct(id) => id.field(name).map_or(Shape::Atomic, |field| shape(Some(field), field.ty())),
                    Shape::Map(elem) => shape(None, elem.ty()),
                    other => other,
                };
                match map.get_mut(name) {
                    Some(_) if whole => drop(map.remove(name)),
                    Some(inner) => take(shape, inner, below, others),
                    None => {}
                }
            }
            (Shape::Set, Value::Array(list)) if whole => list.retain(|item| member_key(item) != *key),
            (Shape::Associative(field, elem), Value::Array(list)) => {
                match list.iter().position(|item| item_key(field, elem, item) == *key) {
                    Some(at) if whole => drop(list.remove(at)),
                    Some(at) => take(shape(None, elem.ty()), &mut list[at], below, others),
                    None => {}
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
