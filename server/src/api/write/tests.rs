use std::sync::atomic::{AtomicU64, Ordering};

use coracle_store::{Commit, Key, Memory, monotonic};
use serde_json::json;

use super::*;
use crate::api::authz::MASTERS;
use crate::api::query::Query;

struct World {
    writer: Writer,
    admin: Identity,
}

fn world() -> World {
    let store = Memory::new([1; 16], monotonic());
    let namespace = object::encode("Namespace", &json!({"metadata": {"name": "a"}}));
    store.commit_now(Commit::new().create(Key::new("namespaces", "", "a"), SCHEMA, namespace)).expect("committed");
    let counter = AtomicU64::new(0);
    let random = move || {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&counter.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        bytes
    };
    let store: Arc<dyn coracle_store::Store> = Arc::new(store);
    let writer = Writer {
        roles: Arc::new(crate::api::rbac::Roles::new(store.clone())),
        store,
        clock: Arc::new(|| 0),
        random: Arc::new(random),
        service_cidr: Cidr { address: [10, 43, 0, 0].into(), prefix: 24 },
    };
    World { writer, admin: Identity { user: "admin".into(), groups: vec![MASTERS.into()] } }
}

impl World {
    fn target(&self, path: &str) -> Target {
        let mut parts = path.split('/');
        let mut next = || parts.next().unwrap_or_default();
        let kind = kinds::by_resource(next()).expect("known");
        let (namespace, name, sub) = (next(), next(), next());
        let sub = (!sub.is_empty()).then(|| kind.subresource(sub).expect("known"));
        Target { kind, namespace: namespace.into(), name: name.into(), sub }
    }

    fn call<'a>(&'a self, target: &'a Target) -> Call<'a> {
        Call { who: &self.admin, target, dry_run: false, mode: Mode::Strict, manager: None }
    }

    fn create(&self, path: &str, value: Value) -> Result<Value, Status> {
        let target = self.target(path);
        let parsed = Parsed { value, duplicates: Vec::new() };
        let written = smol::block_on(self.writer.create(&self.call(&target), parsed))?;
        Ok(written.value(target.kind))
    }

    fn replace(&self, path: &str, value: Value) -> Result<Value, Status> {
        let target = self.target(path);
        let intent = |_: &Value| Ok(Parsed { value: value.clone(), duplicates: Vec::new() });
        let written = smol::block_on(self.writer.modify(&self.call(&target), &intent))?;
        Ok(written.value(target.kind))
    }

    fn delete(&self, path: &str, options: Value) -> Result<Deleted, Status> {
        let target = self.target(path);
        let options = Options::parse(&options, &Query::default())?;
        smol::block_on(self.writer.delete(&self.call(&target), &options))
    }

    fn exists(&self, path: &str) -> bool {
        self.writer.store.get(&super::super::list::key(&self.target(path))).is_some()
    }
}

fn code<T>(result: Result<T, Status>) -> u16 {
    result.err().expect("refused").code
}

#[test]
fn every_row_is_in_the_field_table() {
    for kind in kinds::all() {
        type_id(kind);
        for sub in kind.subresources {
            assert!(schema().kind(sub.group, sub.version, sub.kind).is_some(), "{}", sub.kind);
        }
    }
}

#[test]
fn an_object_is_created_replaced_and_deleted() {
    let world = world();
    let made = world.create("configmaps/a", json!({"metadata": {"name": "x"}, "data": {"k": "1"}})).expect("created");
    let first = made["metadata"]["resourceVersion"].clone();
    assert_eq!(code(world.create("configmaps/a", json!({"metadata": {"name": "x"}}))), 409);
    let mut new = made.clone();
    new["data"]["k"] = "2".into();
    let replaced = world.replace("configmaps/a/x", new.clone()).expect("replaced");
    assert_ne!(replaced["metadata"]["resourceVersion"], first);
    assert_eq!(code(world.replace("configmaps/a/x", made)), 409, "a stale revision");
    let again = world.replace("configmaps/a/x", replaced.clone()).expect("replaced");
    assert_eq!(again, replaced, "a write that changes nothing keeps the revision");
    assert!(matches!(world.delete("configmaps/a/x", Value::Null), Ok(Deleted::Gone(_))));
    assert_eq!(code(world.delete("configmaps/a/x", Value::Null)), 404);
}

#[test]
fn a_namespace_has_to_be_there_and_stay() {
    let world = world();
    assert_eq!(code(world.create("configmaps/b", json!({"metadata": {"name": "x"}}))), 404);
    world.create("namespaces", json!({"metadata": {"name": "b"}})).expect("created");
    world.create("configmaps/b", json!({"metadata": {"name": "x"}})).expect("created");
    assert!(matches!(world.delete("namespaces//b", Value::Null), Ok(Deleted::Lingers(_))));
    assert_eq!(code(world.create("configmaps/b", json!({"metadata": {"name": "y"}}))), 403);
    world
        .replace("namespaces//b/finalize", json!({"metadata": {"name": "b"}, "spec": {"finalizers": []}}))
        .expect("done");
    assert!(!world.exists("namespaces//b"));
    assert_eq!(code(world.delete("namespaces//default", Value::Null)), 403);
}

#[test]
fn status_and_spec_are_written_apart() {
    let world = world();
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "replicas": 1, "template":
        {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}});
    let made = world
        .create("deployments.apps/a", json!({"metadata": {"name": "d"}, "spec": spec, "status": {"replicas": 9}}))
        .expect("created");
    assert_eq!(View(&made).number(&["status", "replicas"]), 0);
    assert_eq!(made["metadata"]["generation"], 1);
    let mut new = made.clone();
    new["status"]["replicas"] = 3.into();
    new["spec"]["replicas"] = 7.into();
    let status = world.replace("deployments.apps/a/d/status", new.clone()).expect("replaced");
    assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&3.into(), &1.into()));
    assert_eq!(status["metadata"]["generation"], 1);
    new["metadata"]["resourceVersion"] = Value::Null;
    new["status"]["replicas"] = 5.into();
    let spec = world.replace("deployments.apps/a/d", new).expect("replaced");
    assert_eq!((&spec["status"]["replicas"], &spec["spec"]["replicas"]), (&3.into(), &7.into()));
    assert_eq!(spec["metadata"]["generation"], 2);
}

#[test]
fn a_finalizer_holds_an_object_until_it_is_taken_away() {
    let world = world();
    let made =
        world.create("configmaps/a", json!({"metadata": {"name": "x", "finalizers": ["e.com/f"]}})).expect("created");
    assert!(matches!(world.delete("configmaps/a/x", Value::Null), Ok(Deleted::Lingers(_))));
    assert!(world.exists("configmaps/a/x"));
    let mut new = made;
    new["metadata"]["finalizers"] = json!([]);
    new["metadata"]["resourceVersion"] = Value::Null;
    world.replace("configmaps/a/x", new).expect("replaced");
    assert!(!world.exists("configmaps/a/x"));
}

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["ports"] = spec.get("ports").cloned().unwrap_or(json!([{"port": 80, "protocol": "TCP"}]));
    json!({"metadata": {"name": name}, "spec": spec})
}

#[test]
fn services_get_addresses_and_ports_and_give_them_back() {
    let world = world();
    let made = world.create("services/a", service("s", json!({"type": "NodePort"}))).expect("created");
    let (ip, port) = (made["spec"]["clusterIP"].clone(), made["spec"]["ports"][0]["nodePort"].clone());
    assert!(ip.as_str().is_some_and(|ip| ip.starts_with("10.43.0.")));
    assert!(port.as_u64().is_some_and(|p| (30000..=32767).contains(&p)));
    assert_eq!(code(world.create("services/a", service("t", json!({"clusterIP": ip})))), 422);
    let asked = json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": port}]});
    assert_eq!(code(world.create("services/a", service("t", asked.clone()))), 422);
    let narrowed = world.replace("services/a/s", service("s", json!({"type": "ClusterIP"}))).expect("replaced");
    assert_eq!(narrowed["spec"]["clusterIP"], ip);
    world.create("services/a", service("t", asked)).expect("the port is free again");
    world.delete("services/a/s", Value::Null).expect("deleted");
    world.create("services/a", service("u", json!({"clusterIP": ip}))).expect("the address is free again");
}

#[test]
fn a_full_range_says_so() {
    let mut world = world();
    world.writer.service_cidr.prefix = 28;
    // A /28 without its first sixteen addresses has nothing to give, but the first can be asked for.
    assert_eq!(code(world.create("services/a", service("s", json!({})))), 500);
    world.create("services/a", service("s", json!({"clusterIP": "10.43.0.1"}))).expect("asked for");
    world.create("services/a", service("h", json!({"clusterIP": "None"}))).expect("headless");
    assert_eq!(code(world.create("services/a", service("o", json!({"clusterIP": "10.44.0.1"})))), 422);
}

#[test]
fn generated_names_are_tried_until_one_is_free() {
    let world = world();
    let first = world.create("configmaps/a", json!({"metadata": {"generateName": "x-"}})).expect("created");
    let second = world.create("configmaps/a", json!({"metadata": {"generateName": "x-"}})).expect("created");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[test]
fn a_dry_run_leaves_nothing() {
    let world = world();
    let target = world.target("configmaps/a");
    let call = Call { dry_run: true, ..world.call(&target) };
    let parsed = Parsed { value: json!({"metadata": {"name": "x"}}), duplicates: Vec::new() };
    smol::block_on(world.writer.create(&call, parsed)).expect("dry");
    assert!(!world.exists("configmaps/a/x"));
}

#[test]
fn unknown_fields_and_other_kinds_are_refused() {
    let world = world();
    assert_eq!(code(world.create("configmaps/a", json!({"metadata": {"name": "x"}, "dada": {}}))), 400);
    assert_eq!(code(world.create("configmaps/a", json!({"kind": "Secret", "metadata": {"name": "x"}}))), 400);
    assert_eq!(code(world.create("configmaps/a", json!([]))), 400);
}
