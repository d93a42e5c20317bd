//! Devices: columns.

use serde_json::Value;

use super::cluster::{AGE, NAME, created, name, plain};
use super::{Column, Moment, View};

pub(super) const PLAIN_COLUMNS: &[Column] = &[NAME, AGE];

pub(super) fn plain_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), created(view, moment)]
}

pub(super) const CLAIM_COLUMNS: &[Column] = &[NAME, plain("State", "Whether devices are set aside."), AGE];

pub(super) fn claim_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let mut words = Vec::new();
    if view.has(&["metadata", "deletionTimestamp"]) {
        words.push("deleted");
    }
    if view.has(&["status", "allocation"]) {
        words.push("allocated");
    }
    match view.list(&["status", "reservedFor"]).is_empty() {
        false => words.push("reserved"),
        true if words.is_empty() => words.push("pending"),
        true => {}
    }
    vec![name(view), words.join(",").into(), created(view, moment)]
}

pub(super) const SLICE_COLUMNS: &[Column] = &[
    NAME,
    plain("Node", "Where the devices are."),
    plain("Driver", "Who drives them."),
    plain("Pool", "The pool they belong to."),
    AGE,
];

pub(super) fn slice_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let node = match view.text(&["spec", "nodeName"]) {
        "" if view.flag(&["spec", "allNodes"]) => "<all>",
        "" => "<unset>",
        node => node,
    };
    vec![
        name(view),
        node.into(),
        view.text(&["spec", "driver"]).into(),
        view.text(&["spec", "pool", "name"]).into(),
        created(view, moment),
    ]
}
