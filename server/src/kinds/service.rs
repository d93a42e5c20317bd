//! Service, Endpoints and EndpointSlice: columns, and what of a Service stays over an update.

use serde_json::Value;

use super::cluster::{AGE, NAME, created, durable, name, nothing_to_create, plain, wide};
use super::human::{join, join_some};
use super::{Column, Moment, Rules, View};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    plain("Type", "How the service is exposed."),
    plain("Cluster-IP", "The address of the service inside the cluster."),
    plain("External-IP", "The addresses of the service outside."),
    plain("Port(s)", "The ports of the service."),
    AGE,
    wide("Selector", "Which pods serve."),
];

pub(super) fn cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let kind = match view.text(&["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    };
    let cluster_ip = match view.text(&["spec", "clusterIP"]) {
        "" => "<none>",
        ip => ip,
    };
    vec![
        name(view),
        kind.into(),
        cluster_ip.into(),
        external(view, kind).into(),
        ports(view).into(),
        created(view, moment),
        selector(view).into(),
    ]
}

fn selector(view: &View<'_>) -> String {
    let pairs: Vec<String> = view.pairs(&["spec", "selector"]).map(|(k, v)| format!("{k}={v}")).collect();
    join(&pairs)
}

fn external(view: &View<'_>, kind: &str) -> String {
    let listed: Vec<String> =
        view.list(&["spec", "externalIPs"]).iter().filter_map(Value::as_str).map(String::from).collect();
    match kind {
        "ExternalName" => view.text(&["spec", "externalName"]).into(),
        "LoadBalancer" => {
            let ingress = view.list(&["status", "loadBalancer", "ingress"]).iter().map(View);
            let mut addresses: Vec<String> = ingress
                .map(|i| if i.has(&["ip"]) { i.text(&["ip"]) } else { i.text(&["hostname"]) })
                .map(String::from)
                .collect();
            addresses.extend(listed);
            if addresses.is_empty() { "<pending>".into() } else { addresses.join(",") }
        }
        _ => join(&listed),
    }
}

fn ports(view: &View<'_>) -> String {
    let ports: Vec<String> = view
        .list(&["spec", "ports"])
        .iter()
        .map(View)
        .map(|p| {
            let protocol = if p.has(&["protocol"]) { p.text(&["protocol"]) } else { "TCP" };
            match p.number(&["nodePort"]) {
                0 => format!("{}/{protocol}", p.number(&["port"])),
                node => format!("{}:{node}/{protocol}", p.number(&["port"])),
            }
        })
        .collect();
    join(&ports)
}

pub(super) const ENDPOINTS_COLUMNS: &[Column] = &[NAME, plain("Endpoints", "The addresses and ports that serve."), AGE];

/// `kubectl get` shows so many addresses before it counts the rest.
const SHOWN: usize = 3;

pub(super) fn endpoints_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in view.list(&["subsets"]).iter().map(View) {
        let ports = subset.list(&["ports"]);
        for address in subset.list(&["addresses"]).iter().map(|a| View(a).text(&["ip"])) {
            if ports.is_empty() {
                all.push(address.to_owned());
            }
            all.extend(ports.iter().map(|p| format!("{address}:{}", View(p).number(&["port"]))));
        }
    }
    vec![name(view), join_some(&all, SHOWN).into(), created(view, moment)]
}

pub(super) const SLICE_COLUMNS: &[Column] = &[
    NAME,
    plain("AddressType", "The kind of addresses in the slice."),
    plain("Ports", "The ports that serve."),
    plain("Endpoints", "The addresses that serve."),
    AGE,
];

pub(super) fn slice_cells(view: &View<'_>, moment: &Moment) -> Vec<Value> {
    let unset = |parts: Vec<String>| match parts.is_empty() {
        true => "<unset>".to_owned(),
        false => join_some(&parts, SHOWN),
    };
    let port = |p: &Value| match View(p).number(&["port"]) {
        0 => "*".to_owned(),
        port => port.to_string(),
    };
    let ports = unset(view.list(&["ports"]).iter().map(port).collect());
    let addresses = view.list(&["endpoints"]).iter().flat_map(|e| View(e).list(&["addresses"]));
    let addresses = unset(addresses.filter_map(Value::as_str).map(String::from).collect());
    vec![name(view), view.text(&["addressType"]).into(), ports.into(), addresses.into(), created(view, moment)]
}

pub(super) const RULES: Rules = Rules { create: nothing_to_create, update, class: durable };

/// A client that replaces a Service without naming what was allocated keeps it.
fn update(object: &mut Value, old: &Value) {
    let (now, before) = (kind_of(object), kind_of(old));
    if now != "ExternalName" && before != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            keep(&mut object["spec"], &old["spec"], field);
        }
    }
    let exposed = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if exposed(&now) && exposed(&before) {
        keep_node_ports(object, old);
    }
}

fn kind_of(service: &Value) -> String {
    View(service).text(&["spec", "type"]).to_owned()
}

fn keep(spec: &mut Value, old: &Value, field: &str) {
    let missing = spec.get(field).is_none_or(|v| v.is_null() || v == "");
    if let Some(before) = old.get(field).filter(|_| missing) {
        spec[field] = before.clone();
    }
}

fn keep_node_ports(object: &mut Value, old: &Value) {
    let before = View(old);
    for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if View(port).number(&["nodePort"]) != 0 {
            continue;
        }
        let same = |p: &&Value| ["port", "protocol"].iter().all(|field| p.get(field) == port.get(field));
        let kept = before.list(&["spec", "ports"]).iter().find(same).map(|p| View(p).number(&["nodePort"]));
        if let Some(kept) = kept.filter(|p| *p != 0) {
            port["nodePort"] = kept.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"},
            {"port": 81, "protocol": "TCP"}]}});
        update(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.43.0.7");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none());
    }

    #[test]
    fn ports_and_external_addresses_are_words() {
        let service = json!({"spec": {"type": "LoadBalancer",
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
        assert_eq!(ports(&View(&service)), "80:30080/TCP,53/UDP");
        assert_eq!(external(&View(&service), "LoadBalancer"), "<pending>");
    }

    #[test]
    fn endpoints_are_cut_after_three() {
        let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{"addresses":
            [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}, {"ip": "1.1.1.3"}, {"ip": "1.1.1.4"}], "ports": [{"port": 80}]}]});
        let cells = endpoints_cells(&View(&endpoints), &Moment { now: 0 });
        assert_eq!(cells[1], "1.1.1.1:80,1.1.1.2:80,1.1.1.3:80 + 1 more...");
    }
}
