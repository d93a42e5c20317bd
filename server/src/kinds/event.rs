//! Event: two faces of one store, as core/v1 and events.k8s.io/v1 know it.

use coracle_store::Class;
use serde_json::{Map, Value};

use super::cluster::{name, nothing_to_create, nothing_to_update, number, plain, wide};
use super::human::age;
use super::{Column, Conversion, Moment, Rules, View, Write};

pub(super) const COLUMNS: &[Column] = &[
    plain("Last Seen", "When it last happened."),
    plain("Type", "Normal or Warning."),
    plain("Reason", "What happened, in one word."),
    plain("Object", "What it happened to."),
    wide("Subobject", "Which part of the object."),
    wide("Source", "Who says so."),
    plain("Message", "What happened, for a person."),
    wide("First Seen", "When it first happened."),
    Column { priority: 1, ..number("Count", "How often it happened.") },
    Column { name: "Name", kind: "string", format: "name", description: "The event's own name.", priority: 1 },
];

pub(super) fn cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let first_of = |paths: &[&[&str]]| paths.iter().map(|p| view.text(p)).find(|t| !t.is_empty()).unwrap_or_default();
    let created: &[&str] = &["metadata", "creationTimestamp"];
    let event_time: &[&str] = &["eventTime"];
    let first = first_of(&[&["firstTimestamp"], event_time, created]);
    let last = first_of(&[&["series", "lastObservedTime"], &["lastTimestamp"], event_time, created]);
    let count = match (view.number(&["series", "count"]), view.number(&["count"])) {
        (0, 0) => 1,
        (0, count) | (count, _) => count,
    };
    vec![
        age(last, moment.now).into(),
        view.text(&["type"]).into(),
        view.text(&["reason"]).into(),
        object(view).into(),
        view.text(&["involvedObject", "fieldPath"]).into(),
        source(view).into(),
        view.text(&["message"]).trim().into(),
        age(first, moment.now).into(),
        count.into(),
        name(view),
    ]
}

fn object(view: &View<'_>) -> String {
    let involved = View(view.at(&["involvedObject"]));
    format!("{}/{}", involved.text(&["kind"]).to_lowercase(), involved.text(&["name"]))
}

fn source(view: &View<'_>) -> String {
    let component = match view.text(&["source", "component"]) {
        "" => view.text(&["reportingComponent"]),
        component => component,
    };
    let host = match view.text(&["source", "host"]) {
        "" => view.text(&["reportingInstance"]),
        host => host,
    };
    if host.is_empty() { component.into() } else { format!("{component}, {host}") }
}

pub(super) const RULES: Rules = Rules { create: nothing_to_create, update: nothing_to_update, class: volatile };

fn volatile(_: &Write<'_>) -> Class {
    Class::Volatile
}

/// The names of the same field in events.k8s.io/v1 and in core/v1.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(super) const NEW_FACE: Conversion = Conversion { to_stored, from_stored };

fn to_stored(event: &mut Value) {
    rename(event, RENAMED.iter().copied());
}

fn from_stored(event: &mut Value) {
    rename(event, RENAMED.iter().map(|(new, old)| (*old, *new)));
}

fn rename(event: &mut Value, names: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(fields) = event.as_object_mut() else { return };
    let mut renamed = Map::new();
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            renamed.insert(to.to_owned(), value);
        }
    }
    fields.extend(renamed);
}

/// The cells of the events.k8s.io face.
pub(super) fn new_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let mut stored = view.0.clone();
    to_stored(&mut stored);
    cells(&View(&stored), moment)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_faces_say_the_same() {
        let new = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "it ran",
            "reportingController": "kubelet", "deprecatedCount": 3});
        let mut stored = new.clone();
        to_stored(&mut stored);
        assert_eq!(stored["involvedObject"]["kind"], "Pod");
        assert_eq!(stored["count"], 3);
        let moment = Moment { now: 0 };
        assert_eq!(cells(&View(&stored), &moment), new_cells(&View(&new), &moment));
        from_stored(&mut stored);
        assert_eq!(stored, new);
    }
}
