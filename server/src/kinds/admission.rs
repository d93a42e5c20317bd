//! Webhooks and admission policies: columns.

use serde_json::Value;

use super::cluster::{AGE, NAME, created, name, number, plain};
use super::{Column, Moment, View};

pub(super) const WEBHOOKS_COLUMNS: &[Column] = &[NAME, number("Webhooks", "The number of webhooks."), AGE];

pub(super) fn webhooks_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), view.list(&["webhooks"]).len().into(), created(view, moment)]
}

const PARAM_KIND: Column = plain("ParamKind", "The kind of its parameters.");

pub(super) const VALIDATING_POLICY_COLUMNS: &[Column] =
    &[NAME, number("Validations", "The number of expressions."), PARAM_KIND, AGE];

pub(super) fn validating_policy_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    policy_cells(view, "validations", moment)
}

pub(super) const MUTATING_POLICY_COLUMNS: &[Column] =
    &[NAME, number("Mutations", "The number of expressions."), PARAM_KIND, AGE];

pub(super) fn mutating_policy_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    policy_cells(view, "mutations", moment)
}

fn policy_cells(view: &View<'_>, list: &str, moment: &Moment) -> Vec<Value> {
    let of = View(view.at(&["spec", "paramKind"]));
    let kind = match of.has(&["kind"]) {
        true => format!("{}/{}", of.text(&["apiVersion"]), of.text(&["kind"])),
        false => "<unset>".into(),
    };
    vec![name(view), view.list(&["spec", list]).len().into(), kind.into(), created(view, moment)]
}

pub(super) const BINDING_COLUMNS: &[Column] =
    &[NAME, plain("PolicyName", "The policy."), plain("ParamRef", "Its parameters."), AGE];

pub(super) fn binding_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let of = View(view.at(&["spec", "paramRef"]));
    let parameters = match (of.text(&["namespace"]), of.text(&["name"])) {
        (_, "") if of.has(&["selector"]) => super::selector(of.at(&["selector"])),
        (_, "") => "<unset>".into(),
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    vec![name(view), view.text(&["spec", "policyName"]).into(), parameters.into(), created(view, moment)]
}
