//! Who manages which fields of an object: `metadata.managedFields`, and server-side apply over it. Pure.
//!
//! An object's fields are recorded from its first server-side apply on; what it had before belongs to
//! `before-first-apply`. Until then nothing is recorded, and nothing is paid for it.

use serde_json::{Map, Value, json};

use super::fieldset::{FieldSet, compare, merge, prune};
use super::table::TypeId;

/// Whom everything belongs to that was there before fields were recorded.
const BEFORE: &str = "before-first-apply";
/// The manager of `kubectl apply --server-side`, who takes over what the same person applied before.
const KUBECTL: &str = "kubectl";
/// What a client-side apply left of what was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Managers of updates that are kept apart; older ones become one, as upstream's.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// How a manager came by its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Apply,
    Update,
}

/// Who writes, and what.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339.
    pub time: &'a str,
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    set: FieldSet,
}

/// A field that someone else manages with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub manager: String,
    pub api_version: String,
    pub subresource: String,
    /// `.spec.replicas`
    pub path: String,
}

impl Conflict {
    /// `conflict with "kubectl" using apps/v1`.
    pub fn words(&self) -> String {
        let sub = if self.subresource.is_empty() {
            String::new()
        } else {
            format!(" with subresource {:?}", self.subresource)
        };
        format!("conflict with {:?}{sub} using {}", self.manager, self.api_version)
    }
}

impl Entry {
    fn new(by: &Writer<'_>, operation: Operation, set: FieldSet) -> Entry {
        Entry {
            manager: by.manager.into(),
            operation,
            api_version: by.api_version.into(),
            subresource: by.subresource.into(),
            time: by.time.into(),
            set,
        }
    }

    fn is(&self, by: &Writer<'_>, operation: Operation) -> bool {
        self.manager == by.manager && self.operation == operation && self.subresource == by.subresource
    }

    fn read(value: &Value) -> Option<Entry> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Entry {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: FieldSet::from_value(value.get("fieldsV1")?),
        })
    }

    fn to_value(&self) -> Value {
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let mut value = json!({"manager": self.manager, "operation": operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.set.to_value()});
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Entry::read).collect()
}

/// Whether an object's fields are recorded.
pub fn is_managed(object: &Value) -> bool {
    !entries(object).is_empty()
}

fn store(object: &mut Value, mut all: Vec<Entry>) {
    all.retain(|entry| !entry.set.is_empty());
    let list: Vec<Value> = all.iter().map(Entry::to_value).collect();
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(metadata) = metadata else { return };
    match list.is_empty() {
        true => drop(metadata.remove("managedFields")),
        false => drop(metadata.insert("managedFields".into(), list.into())),
    }
}

/// Server-side apply: what `applied` makes of `live`, or who is in the way.
pub fn apply(id: TypeId, live: &Value, applied: &Value, by: &Writer<'_>, force: bool) -> Result<Value, Vec<Conflict>> {
    let wanted = FieldSet::of(id, applied);
    let mut all = entries(live);
    if all.is_empty() {
        all = first(id, live, by);
    }
    let before = all.iter().find(|entry| entry.is(by, Operation::Apply)).map(|e| e.set.clone()).unwrap_or_default();
    let mut merged = live.clone();
    let mut laid = applied.clone();
    strip(&mut laid);
    merge(id, &mut merged, &laid);
    let (changed, _) = compare(id, live, &merged);
    let disputed = changed.intersection(&wanted);
    let mut conflicts = Vec::new();
    for entry in all.iter_mut().filter(|entry| !entry.is(by, Operation::Apply)) {
        let both = entry.set.intersection(&disputed);
        if force {
            entry.set = entry.set.difference(&both);
            continue;
        }
        conflicts.extend(both.paths().into_iter().map(|path| Conflict {
            manager: entry.manager.clone(),
            api_version: entry.api_version.clone(),
            subresource: entry.subresource.clone(),
            path,
        }));
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut kept = wanted.clone();
    all.iter().filter(|entry| !entry.is(by, Operation::Apply)).for_each(|entry| kept.union(&entry.set));
    prune(id, &mut merged, &before.difference(&wanted), &kept);
    set_applied(&mut all, by, wanted);
    store(&mut merged, all);
    Ok(merged)
}

/// The entries of an object whose fields nobody recorded yet.
fn first(id: TypeId, live: &Value, by: &Writer<'_>) -> Vec<Entry> {
    let mut all = FieldSet::of(id, live);
    // The status is its writers' own.
    all.below.remove("f:status");
    let mut found = Vec::new();
    let last = live.pointer("/metadata/annotations").and_then(|a| a.get(LAST_APPLIED)).and_then(Value::as_str);
    if by.manager == KUBECTL
        && let Some(last) = last.and_then(|text| serde_json::from_str::<Value>(text).ok())
    {
        let own = FieldSet::of(id, &last);
        all = all.difference(&own);
        found.push(Entry::new(by, Operation::Apply, own));
    }
    found.push(Entry::new(&Writer { manager: BEFORE, ..*by }, Operation::Update, all));
    found
}

/// The applier's entry; its time moves only when its fields do.
fn set_applied(all: &mut Vec<Entry>, by: &Writer<'_>, set: FieldSet) {
    match all.iter_mut().find(|entry| entry.is(by, Operation::Apply)) {
        Some(entry) if entry.set == set && entry.api_version == by.api_version => {}
        Some(entry) => *entry = Entry::new(by, Operation::Apply, set),
        None => all.push(Entry::new(by, Operation::Apply, set)),
    }
}

/// Takes what an applied object says of itself and the server decides.
fn strip(applied: &mut Value) {
    if let Some(fields) = applied.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"] {
            metadata.remove(field);
        }
    }
}

/// A new object that was applied: all that was said is the applier's.
pub fn applied_first(id: TypeId, applied: &Value, by: &Writer<'_>) -> Value {
    let mut object = applied.clone();
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    store(&mut object, vec![Entry::new(by, Operation::Apply, FieldSet::of(id, applied))]);
    object
}

/// Records what another write than an apply changed. An object whose fields are not recorded stays so.
pub fn update(id: TypeId, old: &Value, new: &mut Value, by: &Writer<'_>) {
    let mut all = entries(new);
    if all.is_empty() {
        return;
    }
    let (changed, gone) = compare(id, old, new);
    if changed.is_empty() && gone.is_empty() {
        return;
    }
    for entry in all.iter_mut().filter(|entry| !entry.is(by, Operation::Update)) {
        entry.set = entry.set.difference(&changed).difference(&gone);
    }
    match all.iter_mut().find(|entry| entry.is(by, Operation::Update)) {
        Some(entry) => {
            let mut set = entry.set.difference(&gone);
            set.union(&changed);
            *entry = Entry::new(by, Operation::Update, set);
        }
        None => all.push(Entry::new(by, Operation::Update, changed)),
    }
    bound(&mut all);
    store(new, all);
}

/// Makes one of the oldest updaters when there are too many.
fn bound(all: &mut Vec<Entry>) {
    while all.iter().filter(|entry| entry.operation == Operation::Update).count() > MAX_UPDATERS {
        let updaters = all.iter().enumerate().filter(|(_, entry)| entry.operation == Operation::Update);
        let Some(oldest) = updaters.min_by(|a, b| a.1.time.cmp(&b.1.time)).map(|(at, _)| at) else { return };
        let gone = all.remove(oldest);
        match all.iter_mut().find(|e| e.operation == Operation::Update && (e.manager == ANCIENT || e.time >= gone.time))
        {
            Some(entry) => {
                entry.set.union(&gone.set);
                entry.manager = ANCIENT.into();
            }
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::table::schema;

    fn id() -> TypeId {
        schema().kind("", "v1", "ConfigMap").expect("known")
    }

    fn by(manager: &str) -> Writer<'_> {
        Writer { manager, api_version: "v1", subresource: "", time: "2020-01-01T00:00:00Z" }
    }

    fn data(data: Value) -> Value {
        json!({"metadata": {"name": "x"}, "data": data})
    }

    #[track_caller]
    fn managers(object: &Value) -> Vec<String> {
        entries(object).iter().map(|e| format!("{} {}", e.manager, e.set.paths().join(" "))).collect()
    }

    #[test]
    fn what_one_no_longer_applies_goes_unless_another_holds_it() {
        let first = applied_first(id(), &data(json!({"a": "1", "b": "1"})), &by("one"));
        let second = apply(id(), &first, &data(json!({"b": "1", "c": "1"})), &by("two"), false).expect("agreed");
        assert_eq!(second["data"], json!({"a": "1", "b": "1", "c": "1"}));
        let third = apply(id(), &second, &data(json!({})), &by("one"), false).expect("agreed");
        assert_eq!(third["data"], json!({"b": "1", "c": "1"}));
        assert_eq!(managers(&third), ["one .data", "two .data.b .data.c"]);
    }

    #[test]
    fn another_value_is_a_conflict_unless_forced() {
        let first = applied_first(id(), &data(json!({"a": "1"})), &by("one"));
        let refused = apply(id(), &first, &data(json!({"a": "2"})), &by("two"), false).expect_err("a conflict");
        assert_eq!(
            (refused[0].words().as_str(), refused[0].path.as_str()),
            ("conflict with \"one\" using v1", ".data.a")
        );
        let forced = apply(id(), &first, &data(json!({"a": "2"})), &by("two"), true).expect("forced");
        assert_eq!((&forced["data"], managers(&forced)), (&json!({"a": "2"}), vec!["two .data.a".to_owned()]));
        // What was taken is not given back by applying the same again.
        assert!(apply(id(), &forced, &data(json!({"a": "1"})), &by("one"), false).is_err());
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let first = applied_first(id(), &data(json!({"a": "1"})), &by("one"));
        let later = Writer { time: "2021-01-01T00:00:00Z", ..by("one") };
        assert_eq!(apply(id(), &first, &data(json!({"a": "1"})), &later, false), Ok(first));
    }

    #[test]
    fn an_update_takes_what_it_changes() {
        let old = applied_first(id(), &data(json!({"a": "1", "b": "1"})), &by("one"));
        let mut new = old.clone();
        new["data"] = json!({"a": "2"});
        update(id(), &old, &mut new, &by("edit"));
        assert_eq!(managers(&new), ["edit .data.a"]);
        assert!(apply(id(), &new, &data(json!({"a": "1"})), &by("one"), false).is_err());
        // An object that nobody applied is not recorded.
        let mut plain = data(json!({"a": "2"}));
        update(id(), &data(json!({"a": "1"})), &mut plain, &by("edit"));
        assert!(!is_managed(&plain));
    }

    #[test]
    fn a_client_side_apply_is_taken_over_by_the_same_person() {
        let last = data(json!({"a": "1", "b": "1"})).to_string();
        let mut live = data(json!({"a": "1", "b": "1", "c": "1"}));
        live["metadata"]["annotations"] = json!({LAST_APPLIED: last});
        let taken =
            apply(id(), &live, &data(json!({"a": "2"})), &by(KUBECTL), false).expect("no conflict with oneself");
        assert_eq!(taken["data"], json!({"a": "2", "c": "1"}));
        assert!(apply(id(), &live, &data(json!({"a": "2"})), &by("other"), false).is_err());
    }
}
