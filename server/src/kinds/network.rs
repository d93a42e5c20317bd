//! Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR: columns.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cluster::{AGE, NAME, created, name, plain};
use super::human::{join, join_some};
use super::{Column, Moment, View, selector};

pub(super) const INGRESS_COLUMNS: &[Column] = &[
    NAME,
    plain("Class", "Who serves it."),
    plain("Hosts", "The names it answers to."),
    plain("Address", "Where it answers."),
    plain("Ports", "The ports it answers on."),
    AGE,
];

/// Hosts that are shown; the rest is counted.
const HOSTS: usize = 3;

pub(super) fn ingress_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let class = match view.text(&["spec", "ingressClassName"]) {
        "" => match view.text(&["metadata", "annotations", "kubernetes.io/ingress.class"]) {
            "" => "<none>",
            old => old,
        },
        class => class,
    };
    let mut seen = BTreeSet::new();
    let hosts: Vec<String> = view
        .list(&["spec", "rules"])
        .iter()
        .map(|rule| View(rule).text(&["host"]))
        .filter(|host| !host.is_empty() && seen.insert(*host))
        .map(str::to_owned)
        .collect();
    let hosts = if hosts.is_empty() { "*".into() } else { join_some(&hosts, HOSTS) };
    let addresses: Vec<&str> = view
        .list(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| if View(i).has(&["ip"]) { View(i).text(&["ip"]) } else { View(i).text(&["hostname"]) })
        .collect();
    let ports = if view.list(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![name(view), class.into(), hosts.into(), addresses.join(",").into(), ports.into(), created(view, moment)]
}

pub(super) const CLASS_COLUMNS: &[Column] = &[
    NAME,
    plain("Controller", "Who serves ingresses of this class."),
    plain("Parameters", "Where its settings are."),
    AGE,
];

pub(super) fn class_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let of = View(view.at(&["spec", "parameters"]));
    let parameters = match (of.text(&["kind"]), of.text(&["apiGroup"])) {
        ("", _) => "<none>".to_owned(),
        (kind, "") => format!("{kind}/{}", of.text(&["name"])),
        (kind, group) => format!("{kind}.{group}/{}", of.text(&["name"])),
    };
    vec![name(view), view.text(&["spec", "controller"]).into(), parameters.into(), created(view, moment)]
}

pub(super) const POLICY_COLUMNS: &[Column] = &[NAME, plain("Pod-Selector", "Which pods it is about."), AGE];

pub(super) fn policy_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    vec![name(view), selector(view.at(&["spec", "podSelector"])).into(), created(view, moment)]
}

pub(super) const ADDRESS_COLUMNS: &[Column] = &[NAME, plain("ParentRef", "Whose address it is."), AGE];

pub(super) fn address_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let of = View(view.at(&["spec", "parentRef"]));
    let parts = [of.text(&["group"]), of.text(&["resource"])].join(".");
    let resource = parts.trim_start_matches('.');
    let place = [resource, of.text(&["namespace"]), of.text(&["name"])];
    let words: Vec<&str> = place.into_iter().filter(|part| !part.is_empty()).collect();
    vec![name(view), words.join("/").into(), created(view, moment)]
}

pub(super) const CIDR_COLUMNS: &[Column] = &[NAME, plain("CIDRs", "The ranges."), AGE];

pub(super) fn cidr_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let ranges: Vec<String> =
        view.list(&["spec", "cidrs"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    vec![name(view), join(&ranges).into(), created(view, moment)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_ingress_shows_each_host_once() {
        let ingress = json!({"spec": {"ingressClassName": "edge", "rules": [{"host": "a"}, {"host": "a"}, {"host": "b"}],
            "tls": [{}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"hostname": "x"}]}}});
        let cells = ingress_cells(&View(&ingress), &Moment { now: 0 });
        let words: Vec<&str> = cells[1..5].iter().filter_map(Value::as_str).collect();
        assert_eq!(words, ["edge", "a,b", "1.2.3.4,x", "80, 443"]);
    }
}
