//! EndpointSlices of Services without a selector: mirrored from the Endpoints that somebody writes.

use coracle_shared::submit::{Delete, Write};
use coracle_store::{Event, Key};
use serde_json::{Value, json};

use crate::driver::{Controller, Now, Outcome};
use crate::object::{array, controller_reference, is_deleting, name, namespace, text, uid};
use crate::world::{World, parse};

const SERVICES: &str = "services";
const ENDPOINTS: &str = "endpoints";
const SLICES: &str = "endpointslices.discovery.k8s.io";

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Addresses mirrored of one subset, as upstream does by default.
const PER_SUBSET: usize = 1000;

pub struct Mirror;

impl Controller for Mirror {
    fn name(&self) -> &'static str {
        "endpointslicemirroring"
    }

    fn dirty(&self, event: &Event, _world: &World, mark: &mut dyn FnMut(Key)) {
        let same_name = || Key::new(SERVICES, event.key.namespace.clone(), event.key.name.clone());
        match &*event.key.resource {
            SERVICES | ENDPOINTS => mark(same_name()),
            SLICES => {
                let slice = event.new.as_ref().or(event.old.as_ref()).and_then(parse);
                if let Some(slice) = slice.filter(|slice| slice["metadata"]["labels"][MANAGED_BY] == MANAGER) {
                    let service = slice["metadata"]["labels"][SERVICE_LABEL].as_str().unwrap_or_default();
                    mark(Key::new(SERVICES, event.key.namespace.clone(), service));
                }
            }
            _ => {}
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        world.keys(SERVICES, None).into_iter().for_each(mark);
    }

    fn reconcile(&self, key: &Key, world: &World, _now: Now) -> Outcome {
        let endpoints = world.get(&Key::new(ENDPOINTS, key.namespace.clone(), key.name.clone()));
        // Without Endpoints their slices go as what they own does.
        let Some(endpoints) = endpoints.filter(|endpoints| !is_deleting(endpoints)) else { return Outcome::default() };
        let service = world.get(key).filter(|service| !is_deleting(service));
        let slices: Vec<Value> = world
            .owned(uid(&endpoints), SLICES)
            .into_iter()
            .filter(|slice| slice["metadata"]["labels"][MANAGED_BY] == MANAGER)
            .collect();
        Outcome { writes: plan(service.as_ref(), &endpoints, &slices), again: None }
    }
}

/// Whether somebody else than this server writes the Endpoints, and wants them mirrored.
fn is_mirrored(service: Option<&Value>, endpoints: &Value) -> bool {
    let without_selector =
        |service: &Value| service["spec"]["selector"].as_object().is_none_or(|selector| selector.is_empty());
    service.is_some_and(without_selector) && endpoints["metadata"]["labels"][SKIP] != "true"
}

fn plan(service: Option<&Value>, endpoints: &Value, slices: &[Value]) -> Vec<Write> {
    let wanted: Vec<Value> = match is_mirrored(service, endpoints) {
        true => {
            array(endpoints, "/subsets").iter().enumerate().map(|(i, subset)| slice(endpoints, i, subset)).collect()
        }
        false => Vec::new(),
    };
    let mut writes = Vec::new();
    for slice in &wanted {
        let same = |field: &str, old: &Value| array(old, field) == array(slice, field);
        match slices.iter().find(|old| name(old) == name(slice)) {
            None => writes.push(Write::Create {
                resource: SLICES,
                namespace: namespace(endpoints).to_owned(),
                object: slice.clone(),
            }),
            Some(old) if !same("/endpoints", old) || !same("/ports", old) => writes.push(Write::Merge {
                resource: SLICES,
                namespace: namespace(endpoints).to_owned(),
                name: name(slice).to_owned(),
                subresource: "",
                patch: json!({"endpoints": slice["endpoints"], "ports": slice["ports"]}),
            }),
            Some(_) => {}
        }
    }
    let surplus = slices.iter().filter(|old| !wanted.iter().any(|slice| name(slice) == name(old)));
    writes.extend(surplus.map(|old| Write::Delete {
        resource: SLICES,
        namespace: namespace(endpoints).to_owned(),
        name: name(old).to_owned(),
        options: Delete { uid: Some(uid(old).to_owned()), ..Delete::default() },
    }));
    writes
}

/// One subset as a slice.
fn slice(endpoints: &Value, number: usize, subset: &Value) -> Value {
    let ready = array(subset, "/addresses").iter().map(|address| endpoint(address, true));
    let waiting = array(subset, "/notReadyAddresses").iter().map(|address| endpoint(address, false));
    let members: Vec<Value> = ready.chain(waiting).flatten().take(PER_SUBSET).collect();
    let ports: Vec<Value> = array(subset, "/ports").iter().map(port).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-mirrored-{number}", name(endpoints)), "namespace": namespace(endpoints),
            "labels": {SERVICE_LABEL: name(endpoints), MANAGED_BY: MANAGER},
            "ownerReferences": [controller_reference("v1", "Endpoints", endpoints)],
        },
        "addressType": "IPv4", "endpoints": members, "ports": ports,
    })
}

/// `None` for an address that is not IPv4: nodes balance nothing else.
fn endpoint(address: &Value, ready: bool) -> Option<Value> {
    let ip = text(address, "/ip").parse::<std::net::Ipv4Addr>().ok()?;
    let mut endpoint = json!({"addresses": [ip.to_string()], "conditions": {"ready": ready}});
    for field in ["hostname", "nodeName", "targetRef"] {
        if !address[field].is_null() {
            endpoint[field] = address[field].clone();
        }
    }
    Some(endpoint)
}

/// Endpoints leave the name of a lone port and TCP out; slices say them.
fn port(port: &Value) -> Value {
    let protocol = Some(text(port, "/protocol")).filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
    let mut slice = json!({"name": text(port, "/name"), "port": port["port"], "protocol": protocol});
    if !port["appProtocol"].is_null() {
        slice["appProtocol"] = port["appProtocol"].clone();
    }
    slice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(selector: Value) -> Value {
        json!({"metadata": {"name": "s", "namespace": "n", "uid": "su"}, "spec": {"selector": selector}})
    }

    fn endpoints() -> Value {
        json!({"metadata": {"name": "s", "namespace": "n", "uid": "eu"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2", "nodeName": "a"}],
             "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"name": "x", "port": 90, "protocol": "UDP"}]},
        ]})
    }

    fn made(writes: &[Write]) -> Vec<Value> {
        let objects = writes.iter().map(|write| match write {
            Write::Create { object, .. } => object.clone(),
            other => panic!("{other:?}"),
        });
        objects.collect()
    }

    #[test]
    fn endpoints_without_a_selector_are_mirrored() {
        let slices = made(&plan(Some(&service(Value::Null)), &endpoints(), &[]));
        let seen: Vec<Value> =
            slices.iter().map(|s| json!([s["metadata"]["name"], s["endpoints"], s["ports"]])).collect();
        let member = |ip: &str, ready: bool| json!({"addresses": [ip], "conditions": {"ready": ready}});
        let mut waiting = member("10.0.0.2", false);
        waiting["nodeName"] = "a".into();
        let expect = [
            json!(["s-mirrored-0", [member("10.0.0.1", true), waiting], [{"name": "", "port": 80, "protocol": "TCP"}]]),
            json!(["s-mirrored-1", [member("10.0.0.3", true)], [{"name": "x", "port": 90, "protocol": "UDP"}]]),
        ];
        assert_eq!(seen, expect);
        assert_eq!(slices[0]["metadata"]["labels"][SERVICE_LABEL], "s");
        assert_eq!(plan(Some(&service(json!({}))), &endpoints(), &slices), [], "what is right is left alone");
    }

    #[test]
    fn slices_follow_their_endpoints_and_go_when_nobody_wants_them() {
        let slices = made(&plan(Some(&service(Value::Null)), &endpoints(), &[]));
        let check = |service: Option<Value>, endpoints: Value, expect: &[&str]| {
            let writes = plan(service.as_ref(), &endpoints, &slices);
            let seen: Vec<String> = writes
                .iter()
                .map(|write| match write {
                    Write::Merge { name, patch, .. } => format!("{name} {}", array(patch, "/endpoints").len()),
                    Write::Delete { name, .. } => format!("delete {name}"),
                    other => format!("{other:?}"),
                })
                .collect();
            assert_eq!(seen, expect);
        };
        let without = || service(Value::Null);
        let both = ["delete s-mirrored-0", "delete s-mirrored-1"];
        check(Some(service(json!({"a": "b"}))), endpoints(), &both);
        check(None, endpoints(), &both);
        let mut skipped = endpoints();
        skipped["metadata"]["labels"] = json!({SKIP: "true"});
        check(Some(without()), skipped, &both);
        let mut fewer = endpoints();
        fewer["subsets"][0]["notReadyAddresses"] = json!([]);
        fewer["subsets"].as_array_mut().expect("subsets").pop();
        check(Some(without()), fewer, &["s-mirrored-0 1", "delete s-mirrored-1"]);
    }
}
