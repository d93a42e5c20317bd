//! Endpoints and EndpointSlices of Services with a selector.

use std::collections::BTreeMap;

use coracle_shared::api::selector::LabelSelector;
use coracle_shared::submit::{Delete, Write};
use coracle_store::{Event, Key};
use serde_json::{Value, json};

use crate::driver::{Controller, Now, Outcome};
use crate::object::{array, has_ended, is_deleting, is_ready, name, namespace, number, text, uid};
use crate::world::{World, parse};

const SERVICES: &str = "services";
const ENDPOINTS: &str = "endpoints";
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// Endpoints in one slice, as upstream's default and limit for Endpoints.
const PER_SLICE: usize = 1000;
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

pub struct EndpointsController;

impl Controller for EndpointsController {
    fn name(&self) -> &'static str {
        "endpoint"
    }

    fn dirty(&self, event: &Event, world: &World, mark: &mut dyn FnMut(Key)) {
        match &*event.key.resource {
            SERVICES => mark(event.key.clone()),
            ENDPOINTS => mark(Key::new(SERVICES, event.key.namespace.clone(), event.key.name.clone())),
            SLICES => {
                let slice = event.new.as_ref().or(event.old.as_ref()).and_then(parse);
                if let Some(slice) = slice.filter(|s| s["metadata"]["labels"][MANAGED_BY] == MANAGER) {
                    mark(Key::new(SERVICES, event.key.namespace.clone(), label(&slice, SERVICE_LABEL)));
                }
            }
            "pods" => pod_changed(event, world, mark),
            _ => {}
        }
    }

    fn all(&self, world: &World, mark: &mut dyn FnMut(Key)) {
        world.keys(SERVICES, None).into_iter().for_each(mark);
    }

    fn reconcile(&self, key: &Key, world: &World, _now: Now) -> Outcome {
        let Some(service) = world.get(key).filter(|s| !is_deleting(s)) else { return Outcome::default() };
        let selector = &service["spec"]["selector"];
        if selector.as_object().is_none_or(|s| s.is_empty()) {
            // Whoever made it writes its endpoints too.
            return Outcome::default();
        }
        let pods = world.pods_matching(&key.namespace, &LabelSelector::from_labels(selector));
        let endpoints = world.get(&Key::new(ENDPOINTS, key.namespace.clone(), key.name.clone()));
        let slices: Vec<Value> = world
            .owned(uid(&service), SLICES)
            .into_iter()
            .filter(|slice| slice["metadata"]["labels"][MANAGED_BY] == MANAGER)
            .collect();
        Outcome { writes: plan(&service, &pods, endpoints.as_ref(), &slices), again: None }
    }
}

fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"]["labels"][key].as_str().unwrap_or_default()
}

/// Only what a Service shows of a pod makes its services dirty.
fn pod_changed(event: &Event, world: &World, mark: &mut dyn FnMut(Key)) {
    let old = event.old.as_ref().and_then(parse);
    let new = event.new.as_ref().and_then(parse);
    let shown = |pod: &Value| (pod["metadata"]["labels"].clone(), endpoint(pod), has_ended(pod));
    if old.as_ref().map(shown) == new.as_ref().map(shown) {
        return;
    }
    for service in world.list(SERVICES, Some(&event.key.namespace)) {
        let selector = LabelSelector::from_labels(&service["spec"]["selector"]);
        let selects =
            |pod: &Option<Value>| pod.as_ref().is_some_and(|p| selector.matches(p["metadata"]["labels"].as_object()));
        if !selector.is_everything() && (selects(&old) || selects(&new)) {
            mark(Key::new(SERVICES, namespace(&service), name(&service)));
        }
    }
}

/// A pod as an endpoint, without its ports; `None` while it has no address or once it ended.
fn endpoint(pod: &Value) -> Option<Value> {
    let address = Some(text(pod, "/status/podIP")).filter(|ip| !ip.is_empty())?;
    if has_ended(pod) {
        return None;
    }
    let (ready, going) = (is_ready(pod), is_deleting(pod));
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": ready && !going, "serving": ready, "terminating": going},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod)},
    });
    let hostname = text(pod, "/spec/hostname");
    if !hostname.is_empty() && !text(pod, "/spec/subdomain").is_empty() {
        endpoint["hostname"] = hostname.into();
    }
    Some(endpoint)
}

/// The service's ports as this pod has them: a named target port is looked up in its containers.
fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    array(service, "/spec/ports")
        .iter()
        .filter_map(|port| {
            let protocol = Some(text(port, "/protocol")).filter(|p| !p.is_empty()).unwrap_or("TCP");
            let number = match &port["targetPort"] {
                Value::Number(n) if n.as_i64() != Some(0) => n.as_i64()?,
                Value::String(wanted) => container_port(pod, wanted, protocol)?,
                _ => number(port, "/port"),
            };
            let mut target = json!({"name": text(port, "/name"), "port": number, "protocol": protocol});
            if !port["appProtocol"].is_null() {
                target["appProtocol"] = port["appProtocol"].clone();
            }
            Some(target)
        })
        .collect()
}

fn container_port(pod: &Value, wanted: &str, protocol: &str) -> Option<i64> {
    let ports = array(pod, "/spec/containers").iter().flat_map(|c| array(c, "/ports"));
    ports
        .filter(|p| text(p, "/name") == wanted && p["protocol"].as_str().unwrap_or("TCP") == protocol)
        .find_map(|p| p["containerPort"].as_i64())
}

fn plan(service: &Value, pods: &[Value], endpoints: Option<&Value>, slices: &[Value]) -> Vec<Write> {
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let mut groups: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for pod in pods {
        let Some(mut endpoint) = endpoint(pod) else { continue };
        if publish {
            endpoint["conditions"]["ready"] = true.into();
        }
        let ports = ports(service, pod);
        let group = groups.entry(json!(ports).to_string()).or_insert_with(|| (ports, Vec::new()));
        group.1.push(endpoint);
    }
    for (_, members) in groups.values_mut() {
        members.sort_by(|a, b| text(a, "/targetRef/name").cmp(text(b, "/targetRef/name")));
    }
    let groups: Vec<(Vec<Value>, Vec<Value>)> = groups.into_values().collect();
    let mut writes = plan_slices(service, &groups, slices);
    writes.extend(plan_endpoints(service, &groups, endpoints));
    writes
}

fn plan_slices(service: &Value, groups: &[(Vec<Value>, Vec<Value>)], slices: &[Value]) -> Vec<Write> {
    let mut wanted: Vec<(Value, Value)> = Vec::new();
    for (ports, members) in groups {
        wanted.extend(members.chunks(PER_SLICE).map(|chunk| (json!(ports), json!(chunk))));
    }
    if wanted.is_empty() {
        wanted.push((json!([]), json!([])));
    }
    let mut writes = Vec::new();
    for (i, (ports, members)) in wanted.iter().enumerate() {
        let name = format!("{}-{i}", name(service));
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": slice_metadata(service, &name),
            "addressType": "IPv4", "endpoints": members, "ports": ports,
        });
        match slices.iter().find(|s| crate::object::name(s) == name) {
            None => {
                writes.push(Write::Create { resource: SLICES, namespace: namespace(service).to_owned(), object: slice })
            }
            Some(old)
                if array(old, "/endpoints") != array(&slice, "/endpoints")
                    || array(old, "/ports") != array(&slice, "/ports") =>
            {
                writes.push(Write::Merge {
                    resource: SLICES,
                    namespace: namespace(service).to_owned(),
                    name,
                    subresource: "",
                    patch: json!({"endpoints": members, "ports": ports}),
                });
            }
            Some(_) => {}
        }
    }
    let surplus = slices
        .iter()
        .filter(|s| !(0..wanted.len()).any(|i| crate::object::name(s) == format!("{}-{i}", name(service))));
    writes.extend(surplus.map(|slice| Write::Delete {
        resource: SLICES,
        namespace: namespace(service).to_owned(),
        name: name(slice).to_owned(),
        options: Delete { uid: Some(uid(slice).to_owned()), ..Delete::default() },
    }));
    writes
}

fn slice_metadata(service: &Value, name: &str) -> Value {
    json!({
        "name": name, "namespace": namespace(service),
        "labels": {SERVICE_LABEL: crate::object::name(service), MANAGED_BY: MANAGER},
        "ownerReferences": [crate::object::controller_reference("v1", "Service", service)],
    })
}

fn plan_endpoints(service: &Value, groups: &[(Vec<Value>, Vec<Value>)], old: Option<&Value>) -> Option<Write> {
    let subsets: Vec<Value> = groups
        .iter()
        .filter_map(|(ports, members)| {
            let addresses = |ready: bool| -> Vec<Value> {
                members
                    .iter()
                    .filter(|m| {
                        (m["conditions"]["ready"] == true) == ready
                            && (ready || m["conditions"]["terminating"] == false)
                    })
                    .map(address)
                    .collect()
            };
            let (ready, waiting) = (addresses(true), addresses(false));
            let mut subset = json!({});
            // Endpoints leave the name of a lone port out, slices say that it is empty.
            let mut ports = ports.clone();
            ports
                .iter_mut()
                .filter(|p| p["name"] == "")
                .for_each(|p| drop(p.as_object_mut().map(|p| p.remove("name"))));
            for (field, list) in [("addresses", ready), ("notReadyAddresses", waiting), ("ports", ports)] {
                if !list.is_empty() {
                    subset[field] = list.into();
                }
            }
            (subset.get("addresses").is_some() || subset.get("notReadyAddresses").is_some()).then_some(subset)
        })
        .collect();
    let (namespace, name) = (namespace(service).to_owned(), name(service).to_owned());
    match old {
        None => {
            let metadata = json!({"name": name, "namespace": namespace, "labels": service["metadata"]["labels"]});
            let object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets});
            Some(Write::Create { resource: ENDPOINTS, namespace, object })
        }
        Some(old) if array(old, "/subsets") == subsets => None,
        Some(_) => Some(Write::Merge {
            resource: ENDPOINTS,
            namespace,
            name,
            subresource: "",
            patch: json!({"subsets": subsets}),
        }),
    }
}

fn address(endpoint: &Value) -> Value {
    let mut address =
        json!({"ip": endpoint["addresses"][0], "nodeName": endpoint["nodeName"], "targetRef": endpoint["targetRef"]});
    if !endpoint["hostname"].is_null() {
        address["hostname"] = endpoint["hostname"].clone();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({"metadata": {"name": "s", "namespace": "d", "uid": "su"}, "spec": {"selector": {"a": "b"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}})
    }

    fn pod(name: &str, ip: &str, ready: bool, deleting: bool) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "web", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = "t".into();
        }
        pod
    }

    /// The addresses of Endpoints (ready, not ready) and of the slice (with its three conditions).
    fn check(pods: &[Value], ready: &[&str], waiting: &[&str], slice: &[&str]) {
        let writes = plan(&service(), pods, None, &[]);
        let created = |resource: &str| {
            writes.iter().find_map(|w| match w {
                Write::Create { resource: r, object, .. } if *r == resource => Some(object.clone()),
                _ => None,
            })
        };
        let endpoints = created(ENDPOINTS).unwrap();
        let ips = |field: &str| -> Vec<String> {
            array(&endpoints, &format!("/subsets/0/{field}")).iter().map(|a| text(a, "/ip").to_owned()).collect()
        };
        assert_eq!(
            (ips("addresses"), ips("notReadyAddresses")),
            (ready.iter().map(|s| s.to_string()).collect(), waiting.iter().map(|s| s.to_string()).collect())
        );
        let created = created(SLICES).unwrap();
        let flag = |e: &Value, name: &str| if e["conditions"][name] == true { &name[..1] } else { "-" }.to_owned();
        let seen: Vec<String> = array(&created, "/endpoints")
            .iter()
            .map(|e| {
                format!(
                    "{} {}{}{}",
                    text(e, "/addresses/0"),
                    flag(e, "ready"),
                    flag(e, "serving"),
                    flag(e, "terminating")
                )
            })
            .collect();
        assert_eq!(seen, slice);
    }

    #[test]
    fn who_is_behind_a_service() {
        check(&[], &[], &[], &[]);
        check(
            &[pod("b", "10.0.0.2", true, false), pod("a", "10.0.0.1", false, false)],
            &["10.0.0.2"],
            &["10.0.0.1"],
            &["10.0.0.1 ---", "10.0.0.2 rs-"],
        );
        check(&[pod("a", "10.0.0.1", true, true)], &[], &[], &["10.0.0.1 -st"]);
        check(&[pod("a", "", true, false)], &[], &[], &[]);
        let mut ended = pod("a", "10.0.0.1", true, false);
        ended["status"]["phase"] = "Succeeded".into();
        check(&[ended], &[], &[], &[]);
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let pods = [pod("a", "10.0.0.1", true, false)];
        let made: Vec<Value> = plan(&service(), &pods, None, &[])
            .into_iter()
            .filter_map(|w| if let Write::Create { object, .. } = w { Some(object) } else { None })
            .collect();
        let (slice, endpoints) = (&made[0], &made[1]);
        assert_eq!(slice["ports"][0]["port"], 8080, "a named target port");
        assert_eq!(plan(&service(), &pods, Some(endpoints), std::slice::from_ref(slice)), []);
        let writes = plan(&service(), &[], Some(endpoints), std::slice::from_ref(slice));
        assert!(matches!(&writes[..], [Write::Merge { .. }, Write::Merge { .. }]), "{writes:?}");
        let mut stray = slice.clone();
        stray["metadata"]["name"] = "s-1".into();
        let writes = plan(&service(), &pods, Some(endpoints), &[slice.clone(), stray]);
        assert!(matches!(&writes[..], [Write::Delete { name, .. }] if name == "s-1"), "{writes:?}");
    }
}
