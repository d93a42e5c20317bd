//! Strategic merge patch: like a merge patch, but lists that the field table marks are merged by
//! their key, and directives (`$patch`, `$deleteFromPrimitiveList/…`, `$setElementOrder/…`,
//! `$retainKeys`) say what a plain merge cannot.
//!
//! Where an element lands follows upstream: `$setElementOrder` first, then the patch's order, then
//! the object's. Lookups go through maps, so that long lists stay linear.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::api::table::{Field, Type, TypeId};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of type `kind`. On error `target` may be partly
/// patched: work on a copy.
pub fn strategic(kind: TypeId, target: &mut Value, patch: Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    let Value::Object(object) = target else {
        return Err(PatchError::Refused("the object to patch is not an object".into()));
    };
    merge_map(object, patch, Shape::Struct(kind))
}

fn malformed(words: &str) -> PatchError {
    PatchError::Malformed(words.into())
}

/// What the table knows about a JSON object.
#[derive(Clone, Copy)]
enum Shape {
    Struct(TypeId),
    /// Every key has the same type.
    Map(Type),
    /// Nothing: objects merge, lists are replaced.
    Free,
}

/// How one field merges.
#[derive(Clone, Copy)]
struct Rule {
    /// The field's own shape, or its elements' for a list.
    shape: Shape,
    merge_list: bool,
    /// An object is replaced, not merged.
    replace: bool,
    key: Option<&'static str>,
}

impl Shape {
    fn of(ty: Type) -> Shape {
        match ty {
            Type::Struct(id) => Shape::Struct(id),
            Type::Map(elem) => Shape::Map(elem.ty()),
            Type::List(elem) => Shape::of(elem.ty()),
            _ => Shape::Free,
        }
    }

    fn rule(self, name: &str) -> Rule {
        let plain = |shape| Rule { shape, merge_list: false, replace: false, key: None };
        match self {
            Shape::Free => plain(Shape::Free),
            Shape::Map(ty) => plain(Shape::of(ty)),
            Shape::Struct(id) => match id.field(name) {
                // Strict validation names it after the patch.
                None => plain(Shape::Free),
                Some(field) => Rule::of(field),
            },
        }
    }
}

impl Rule {
    fn of(field: &Field) -> Rule {
        Rule {
            shape: Shape::of(field.ty()),
            merge_list: field.patch().merge,
            replace: field.patch().replace,
            key: field.merge_key(),
        }
    }
}

fn merge_map(target: &mut Map<String, Value>, mut patch: Map<String, Value>, shape: Shape) -> Result<(), PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => *target = patch,
            Some("delete") => target.clear(),
            // Upstream has no "merge" for maps; it is what happens anyway.
            Some("merge") => return merge_map(target, patch, shape),
            _ => return Err(PatchError::Malformed(format!("unknown patch type: {directive}"))),
        }
        return Ok(());
    }
    retain_keys(target, &mut patch)?;
    ordered_lists(target, &mut patch, shape)?;
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            delete_from(target, list, value)?;
        } else if name.starts_with(SET_ORDER) {
            return Err(malformed("invalid patch format of setElementOrder list"));
        } else {
            merge_field(target, name, value, shape)?;
        }
    }
    Ok(())
}

fn merge_field(target: &mut Map<String, Value>, name: String, value: Value, shape: Shape) -> Result<(), PatchError> {
    match (target.get_mut(&name), value) {
        (_, Value::Null) => {
            target.remove(&name);
        }
        (Some(Value::Object(old)), Value::Object(new)) => {
            let rule = shape.rule(&name);
            match rule.replace {
                true => *old = new,
                false => merge_map(old, new, rule.shape)?,
            }
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            let rule = shape.rule(&name);
            match rule.merge_list {
                true => *old = merge_list(std::mem::take(old), new, rule)?,
                false => *old = new,
            }
        }
        (_, value) => match without_directives(value) {
            Some(value) => {
                target.insert(name, value);
            }
            None => {
                target.remove(&name);
            }
        },
    }
    Ok(())
}

/// `$retainKeys`: removes what it does not list; the patch may set nothing else.
fn retain_keys(target: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let format = || malformed("invalid patch format of retainKeys");
    let keys = keys.as_array().ok_or_else(format)?;
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let foreign = |(name, value): (&String, &Value)| {
        !value.is_null()
            && !name.starts_with(DELETE_FROM)
            && !name.starts_with(SET_ORDER)
            && !keys.contains(name.as_str())
    };
    if patch.iter().any(foreign) {
        return Err(format());
    }
    target.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

fn delete_from(target: &mut Map<String, Value>, name: &str, gone: Value) -> Result<(), PatchError> {
    let Value::Array(gone) = gone else {
        return Err(malformed("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(list)) = target.get_mut(name) {
        let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
        list.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

/// Merges every list that has a `$setElementOrder`, and takes both out of the patch.
fn ordered_lists(
    target: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    shape: Shape,
) -> Result<(), PatchError> {
    let orders: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in orders {
        let name = &directive[SET_ORDER.len()..];
        let format = || malformed("invalid patch format of setElementOrder list");
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(format());
        };
        let rule = shape.rule(name);
        let new = match patch.remove(name) {
            None => None,
            Some(Value::Array(new)) => Some(new),
            // A null clears the list; nothing is left to order.
            Some(Value::Null) => {
                target.remove(name);
                continue;
            }
            Some(_) => return Err(format()),
        };
        check_order(new.as_deref().unwrap_or_default(), &order, rule.key)?;
        let old = match target.remove(name) {
            None => None,
            Some(Value::Array(old)) => Some(old),
            Some(_) => return Err(format()),
        };
        let server_order = identities(old.as_deref().unwrap_or_default(), rule.key)?;
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
            (Some(old), Some(new)) if rule.merge_list => merge_list(old, new, rule)?,
            (Some(_), Some(new)) => new,
        };
        let order = identities(&order, rule.key)?;
        let merged = arrange(merged, &order, &server_order, rule.key)?;
        target.insert(name.to_string(), Value::Array(merged));
    }
    Ok(())
}

/// The patch's elements must be among the ordered ones, in the same relative order.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut order = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let wanted = identity(item, key)?;
        let found = order.by_ref().map(|o| identity(o, key)).find(|o| *o == Ok(wanted.clone()));
        if found.is_none() {
            return Err(PatchError::Malformed(format!(
                "the order in the patch list doesn't match its {SET_ORDER} list"
            )));
        }
    }
    Ok(())
}

/// What tells elements apart: the merge key's value, or the value itself.
fn identity(item: &Value, key: Option<&str>) -> Result<String, PatchError> {
    match key {
        None => match item {
            Value::Array(_) => Err(PatchError::Refused("lists of lists are not supported".into())),
            other => Ok(other.to_string()),
        },
        Some(key) => match item.get(key) {
            Some(value) => Ok(value.to_string()),
            None => Err(PatchError::Malformed(format!("map: {item} does not contain declared merge key: {key}"))),
        },
    }
}

/// Where each identity first stands.
fn identities(items: &[Value], key: Option<&str>) -> Result<HashMap<String, usize>, PatchError> {
    let mut places = HashMap::with_capacity(items.len());
    for (place, item) in items.iter().enumerate() {
        places.entry(identity(item, key)?).or_insert(place);
    }
    Ok(places)
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, rule: Rule) -> Result<Vec<Value>, PatchError> {
    let objects = old.iter().chain(&new).any(Value::is_object);
    if !objects {
        return merge_primitives(old, new);
    }
    let Some(key) = rule.key else {
        return Err(PatchError::Refused("cannot merge lists without merge key".into()));
    };
    if let Some(other) = old.iter().chain(&new).find(|v| !v.is_object()) {
        return Err(PatchError::Malformed(format!("expected a map, but received {other}")));
    }
    let (mut merged, new) = list_directives(old, new, key)?;
    let server_order = identities(&merged, Some(key))?;
    let patch_order = identities(&new, Some(key))?;
    let mut places = server_order.clone();
    for item in new {
        let id = identity(&item, Some(key))?;
        match (places.get(&id), item) {
            (Some(&place), Value::Object(item)) => {
                if let Value::Object(old) = &mut merged[place] {
                    merge_map(old, item, rule.shape)?;
                }
            }
            (_, item) => {
                places.insert(id, merged.len());
                merged.extend(without_directives(item));
            }
        }
    }
    arrange(merged, &patch_order, &server_order, Some(key))
}

/// Appends, without repetition.
fn merge_primitives(old: Vec<Value>, new: Vec<Value>) -> Result<Vec<Value>, PatchError> {
    let (server_order, patch_order) = (identities(&old, None)?, identities(&new, None)?);
    let mut seen = HashSet::new();
    let both = old.into_iter().chain(new);
    let merged = both.filter(|item| seen.insert(item.to_string())).collect();
    arrange(merged, &patch_order, &server_order, None)
}

/// Carries out `$patch: delete` and `$patch: replace` among the elements of the patch.
fn list_directives(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let (mut plain, mut gone, mut replace) = (Vec::new(), HashSet::new(), false);
    for item in new {
        match item.get(DIRECTIVE) {
            None => plain.push(item),
            Some(directive) => match directive.as_str() {
                Some("delete") => {
                    gone.insert(identity(&item, Some(key))?);
                }
                Some("replace") => replace = true,
                Some("merge") => {
                    return Err(malformed("merging lists cannot yet be specified in the patch"));
                }
                _ => return Err(PatchError::Malformed(format!("unknown patch type: {directive}"))),
            },
        }
    }
    if replace {
        return Ok((Vec::new(), plain));
    }
    if !gone.is_empty() {
        old.retain(|item| identity(item, Some(key)).is_ok_and(|id| !gone.contains(&id)));
    }
    Ok((old, plain))
}

/// Puts the elements named by `order` in that order, the others in the object's, and interleaves
/// them: an element of the object stays before what it stood before, as far as that can be said.
fn arrange(
    merged: Vec<Value>,
    order: &HashMap<String, usize>,
    server_order: &HashMap<String, usize>,
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let (mut ordered, mut rest) = (Vec::new(), Vec::new());
    for item in merged {
        let id = identity(&item, key)?;
        let server = server_order.get(&id).copied();
        match order.get(&id) {
            Some(&place) => ordered.push((place, server, item)),
            None => rest.push((server.unwrap_or(usize::MAX), server, item)),
        }
    }
    ordered.sort_by_key(|(place, _, _)| *place);
    rest.sort_by_key(|(place, _, _)| *place);
    let mut out = Vec::with_capacity(ordered.len() + rest.len());
    let (mut ordered, mut rest) = (ordered.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        let take_rest = match (rest.peek(), ordered.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, Some(left), _)), Some((_, Some(right), _))) => left < right,
            _ => false,
        };
        let next = if take_rest { rest.next() } else { ordered.next() };
        out.extend(next.map(|(_, _, item)| item));
    }
}

/// An added value as it is stored: without directives and nulls; `None` for one that is a directive
/// itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            let plain = map.into_iter().filter(|(name, value)| {
                !value.is_null()
                    && name != RETAIN_KEYS
                    && !name.starts_with(DELETE_FROM)
                    && !name.starts_with(SET_ORDER)
            });
            let kept = plain.filter_map(|(name, value)| Some((name, without_directives(value)?)));
            Some(Value::Object(kept.collect()))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}
