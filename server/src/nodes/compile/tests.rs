use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_shared::codec::decode_body;
use coracle_shared::desired::{Backend, Protocol, ServiceItem};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn network() -> ClusterNetwork {
    ClusterNetwork {
        cluster_cidr: parse_cidr("10.42.0.0/16").unwrap(),
        service_cidr: parse_cidr("10.43.0.0/16").unwrap(),
        dns_ip: "10.43.0.10".parse().unwrap(),
        domain: "cluster.local".into(),
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn full_pod() -> Value {
    json!({
        "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "d", "uid": "u1", "labels": {"a": "b"}, "annotations": {"x": "y"},
            "managedFields": [{"manager": "m"}], "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3,
            "ownerReferences": [{"uid": "o"}],
        },
        "spec": {
            "nodeName": "n1",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "1", "configMap": {"name": "cm-volume"}},
                {"name": "2", "secret": {"secretName": "s-volume"}},
                {"name": "3", "projected": {"sources": [{"configMap": {"name": "cm-p"}}, {"secret": {"name": "s-p"}}]}},
            ],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s-init"}}]}],
            "containers": [{
                "name": "c",
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm-env", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s-env", "key": "k"}}},
                ],
                "envFrom": [{"configMapRef": {"name": "cm-from"}}],
            }],
        },
        "status": {"phase": "Running"},
    })
}

#[test]
fn a_pod_brings_all_that_its_containers_need() {
    let pod = pod(&bytes(&full_pod())).unwrap();
    let ids: Vec<String> = pod.references.iter().map(|r| r.item_id().0).collect();
    let expect = [
        "configmap/d/cm-env",
        "configmap/d/cm-from",
        "configmap/d/cm-p",
        "configmap/d/cm-volume",
        "secret/d/s-env",
        "secret/d/s-init",
        "secret/d/s-p",
        "secret/d/s-volume",
        "credential/d/pull",
    ];
    assert_eq!(ids, expect);
}

#[test]
fn what_means_nothing_to_a_node_does_not_change_the_item() {
    let hash = |change: fn(&mut Value)| {
        let mut object = full_pod();
        change(&mut object);
        pod(&bytes(&object)).unwrap().item.hash
    };
    let same = hash(|_| {});
    assert_eq!(hash(|p| p["status"] = json!({"phase": "Failed"})), same);
    assert_eq!(hash(|p| p["metadata"]["managedFields"] = json!([])), same);
    assert_eq!(hash(|p| p["metadata"]["resourceVersion"] = "9".into()), same);
    assert_eq!(hash(|p| p["metadata"]["finalizers"] = json!(["f"])), same);
    assert_ne!(hash(|p| p["metadata"]["labels"]["a"] = "c".into()), same);
    assert_ne!(hash(|p| p["spec"]["hostname"] = "h".into()), same);
}

#[test]
fn a_deleting_pod_has_a_grace() {
    let check = |change: Value, own: Value, expect: Option<u32>| {
        let mut object = full_pod();
        object["metadata"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        object["spec"]["terminationGracePeriodSeconds"] = own;
        let Ok(Body::Pod(item)) = decode_body(&pod(&bytes(&object)).unwrap().item.body) else { panic!() };
        assert_eq!(item.stop, expect);
    };
    let stamp = "2026-01-01T00:00:00Z";
    check(json!({}), 5.into(), None);
    check(json!({"deletionTimestamp": stamp}), Value::Null, Some(30));
    check(json!({"deletionTimestamp": stamp}), 5.into(), Some(5));
    check(json!({"deletionTimestamp": stamp, "deletionGracePeriodSeconds": 0}), 5.into(), Some(0));
}

/// The same objects give the same bytes, on any server, for ever: a change here resends everything
/// to every node after an upgrade, and has to be meant.
#[test]
fn golden_items() {
    let short = |item: &Item| (item.id.0.clone(), item.hash.to_string());
    let node = json!({
        "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.42.3.0/24"},
        "status": {"addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "192.0.2.7"}]},
    });
    let secret = json!({"data": {"k": "djE=", "bad": "!"}});
    let reference = Reference { kind: ReferenceKind::Secret, namespace: "d".into(), name: "s".into() };
    let items = [
        (*pod(&bytes(&full_pod())).unwrap().item).clone(),
        config(&network(), Some(&bytes(&node))),
        route("n1", &bytes(&node)).unwrap(),
        super::reference(&reference, &bytes(&secret)).unwrap(),
        service(&bytes(&web()), [slice(&[("10.42.0.7", true, true, false)])].iter()).unwrap(),
    ];
    let got: Vec<_> = items.iter().map(short).collect();
    let expect = [
        ("pod/u1", "1f7f866a4ea6c71bbcb2ffc6b773636c"),
        ("node", "1b4ae09f691580eb546c4c2f8c9119ae"),
        ("route/n1", "a47969e4474f4726b90889050fe522c2"),
        ("secret/d/s", "47aa21f529a7dd0396251da5bd821a19"),
        ("service/d/web", "be993662c7757bd2973143f21a5b9e54"),
    ];
    assert_eq!(got, expect.map(|(id, hash)| (id.to_owned(), hash.to_owned())));
}

#[test]
fn a_node_gets_its_pods_and_their_objects_and_says_what_is_missing() {
    let pod = pod(&bytes(&full_pod())).unwrap();
    let config = Arc::new(config(&network(), None));
    let data: BTreeMap<&str, Value> = [("cm-env", json!({"data": {"k": "v"}}))].into();
    let compiled = node(config, [&pod].into_iter(), |r| {
        data.get(&*r.name).and_then(|object| reference(r, &bytes(object))).map(Arc::new)
    });
    let ids: Vec<&str> = compiled.items.keys().map(|id| &*id.0).collect();
    assert_eq!(ids, ["configmap/d/cm-env", "node", "pod/u1"]);
    assert_eq!(compiled.missing.len(), 8);
}

#[test]
fn pull_secrets_of_both_forms() {
    let check = |data: Value, expect: Option<&str>| {
        let r = Reference { kind: ReferenceKind::Credential, namespace: "d".into(), name: "p".into() };
        let item = reference(&r, &bytes(&json!({"data": data})));
        let config = item.map(|item| match decode_body(&item.body).unwrap() {
            Body::Credential(c) => String::from_utf8(c.docker_config).unwrap(),
            other => panic!("{other:?}"),
        });
        assert_eq!(config.as_deref(), expect);
    };
    check(json!({".dockerconfigjson": STANDARD.encode("{}")}), Some("{}"));
    check(json!({".dockercfg": STANDARD.encode("{\"r\":{}}")}), Some("{\"auths\":{\"r\":{}}}"));
    check(json!({"other": ""}), None);
}

fn web() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "d"},
        "spec": {"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]},
    })
}

/// Endpoints as (address, ready, serving, terminating).
fn slice(endpoints: &[(&str, bool, bool, bool)]) -> Slice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, ready, serving, terminating)| {
            let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
            json!({"addresses": [address], "conditions": conditions, "hostname": "h"})
        })
        .collect();
    let object = json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "other", "port": 1}],
        "endpoints": endpoints,
    });
    Slice::parse(&bytes(&object)).unwrap()
}

fn compiled(service: &Value, slices: &[Slice]) -> ServiceItem {
    let item = super::service(&bytes(service), slices.iter()).unwrap();
    match decode_body(&item.body).unwrap() {
        Body::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

#[test]
fn backends_are_the_ready_ones_or_else_those_that_still_serve() {
    let check = |endpoints: &[(&str, bool, bool, bool)], expect: &[&str]| {
        let service = compiled(&web(), &[slice(endpoints)]);
        let got: Vec<String> = service.ports[0].backends.iter().map(|b| b.address.to_string()).collect();
        assert_eq!(got, expect);
    };
    let (ready, drains, dead) =
        (("10.0.0.2", true, true, false), ("10.0.0.1", false, true, true), ("10.0.0.3", false, false, true));
    check(&[], &[]);
    check(&[ready, drains, dead], &["10.0.0.2"]);
    check(&[drains, dead], &["10.0.0.1"]);
    check(&[dead], &[]);
    check(&[("10.0.0.9", true, true, false), ready], &["10.0.0.2", "10.0.0.9"]);
}

#[test]
fn services_of_all_kinds() {
    let slices = [slice(&[("10.0.0.1", true, true, false)])];
    let plain = compiled(&web(), &slices);
    assert_eq!(plain.ports[0].node_port, Some(30080));
    let backend = Backend { address: "10.0.0.1".parse().unwrap(), port: 8080, hostname: Some("h".into()), ready: true };
    assert_eq!((plain.ports[0].protocol, &plain.ports[0].backends), (Protocol::Tcp, &vec![backend]));
    let mut sticky = web();
    sticky["spec"]["sessionAffinity"] = "ClientIP".into();
    assert_eq!(compiled(&sticky, &slices).affinity, Some(10_800));
    let mut headless = web();
    headless["spec"] = json!({"clusterIP": "None"});
    let headless = compiled(&headless, &slices);
    assert_eq!((headless.cluster_ip, headless.ports[0].port, headless.ports[0].backends.len()), (None, 0, 1));
    let mut external = web();
    external["spec"] = json!({"type": "ExternalName", "externalName": "x.example"});
    assert_eq!(compiled(&external, &[]).external_name.as_deref(), Some("x.example"));
}

proptest! {
    /// Stored bytes come from clients: whatever they are, compiling neither panics nor varies.
    #[test]
    fn any_bytes_compile_alike(raw in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..400) {
        let mut object = bytes(&full_pod());
        let at = at % object.len();
        object.truncate(at);
        for input in [&raw, &object] {
            let once = (pod(input).map(|p| p.item), route("n", input), config(&network(), Some(input)));
            let twice = (pod(input).map(|p| p.item), route("n", input), config(&network(), Some(input)));
            prop_assert_eq!(once, twice);
            let slices: Vec<Slice> = Slice::parse(input).into_iter().collect();
            let _ = service(input, slices.iter());
        }
    }
}
