//! What the administrator does: deployments come, grow, change and go, pods are made and deleted.

use std::collections::BTreeMap;

use coracle_shared::submit::{Delete, Identity, Write};
use serde_json::{Value, json};

use crate::disk::Random;

const NAMES: [&str; 3] = ["web", "api", "batch"];
const IMAGES: [&str; 4] =
    ["reg.example/serve:1", "reg.example/serve:2", "reg.example/deaf:1", "reg.example/end-90000-1:1"];

pub fn admin() -> Identity {
    Identity { user: "admin".into(), groups: vec!["system:masters".into(), "system:authenticated".into()] }
}

/// What was asked for and acknowledged: a deployment's replicas, or that it is not to be. A name that
/// is missing here was asked for without an answer.
#[derive(Default)]
pub struct Workload {
    pub acknowledged: BTreeMap<&'static str, Option<u64>>,
    pods: u64,
}

pub struct Request {
    pub write: Write,
    pub about: Option<(&'static str, Option<u64>)>,
    pub what: String,
}

fn template(name: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 15, "containers": [{"name": "main", "image": image}]}})
}

fn deployment(name: &str, replicas: u64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, image)}})
}

impl Workload {
    /// The next thing to ask for.
    pub fn next(&mut self, random: &mut Random, pods: &[String]) -> Request {
        let name = NAMES[random.below(3) as usize];
        let image = IMAGES[random.below(4) as usize];
        let replicas = random.below(5);
        match random.below(12) {
            0..4 => create(name, replicas, image),
            4..6 => patch(name, Some(replicas), json!({"spec": {"replicas": replicas}})),
            6 => {
                let patch = json!({"spec": {"template": template(name, image)}});
                self::patch(name, self.acknowledged.get(name).copied().flatten(), patch)
            }
            7 => delete(name),
            8 | 9 => {
                self.pods += 1;
                self.pod(random)
            }
            10 => config_map(random.below(2) == 0, random.below(100)),
            _ => match pods.len() {
                0 => create(name, replicas, image),
                len => delete_pod(&pods[random.below(len as u64) as usize], random),
            },
        }
    }

    fn pod(&self, random: &mut Random) -> Request {
        let name = format!("bare-{}", self.pods);
        let image =
            ["reg.example/serve:1", "reg.example/end-20000-0:1", "reg.example/end-5000-3:1"][random.below(3) as usize];
        let mut spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "main", "image": image}]});
        if random.below(3) == 0 {
            spec["volumes"] = json!([{"name": "c", "configMap": {"name": "conf"}}]);
        }
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let write = Write::Create { resource: "pods", namespace: "default".into(), object };
        Request { write, about: None, what: format!("create pod {name} of {image}") }
    }

    /// What the rest of the run is to be: no workload that cannot come to rest.
    pub fn last(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        for name in NAMES {
            requests.push(create(name, 2, IMAGES[0]));
            let patch = json!({"spec": {"replicas": 2, "template": template(name, IMAGES[0])}});
            requests.push(self::patch(name, Some(2), patch));
        }
        requests.push(delete(NAMES[2]));
        // What waits for it would ask for it again and again.
        requests.push(config_map(true, 0));
        requests
    }
}

fn create(name: &'static str, replicas: u64, image: &str) -> Request {
    let object = deployment(name, replicas, image);
    let write = Write::Create { resource: "deployments.apps", namespace: "default".into(), object };
    Request { write, about: Some((name, Some(replicas))), what: format!("create {name} with {replicas} of {image}") }
}

fn patch(name: &'static str, replicas: Option<u64>, patch: Value) -> Request {
    let what = format!("patch {name}: {patch}");
    let write = Write::Merge {
        resource: "deployments.apps",
        namespace: "default".into(),
        name: name.into(),
        subresource: "",
        patch,
    };
    Request { write, about: replicas.map(|replicas| (name, Some(replicas))), what }
}

fn delete(name: &'static str) -> Request {
    let write = Write::Delete {
        resource: "deployments.apps",
        namespace: "default".into(),
        name: name.into(),
        options: Delete::default(),
    };
    Request { write, about: Some((name, None)), what: format!("delete {name}") }
}

fn delete_pod(name: &str, random: &mut Random) -> Request {
    let grace_seconds = [None, None, Some(0), Some(60)][random.below(4) as usize];
    let options = Delete { grace_seconds, ..Delete::default() };
    let write = Write::Delete { resource: "pods", namespace: "default".into(), name: name.to_owned(), options };
    Request { write, about: None, what: format!("delete pod {name} grace {grace_seconds:?}") }
}

fn config_map(comes: bool, value: u64) -> Request {
    let write = if comes {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"},
            "data": {"key": value.to_string()}});
        Write::Create { resource: "configmaps", namespace: "default".into(), object }
    } else {
        let (name, options) = ("conf".into(), Delete::default());
        Write::Delete { resource: "configmaps", namespace: "default".into(), name, options }
    };
    Request { write, about: None, what: "configmap conf comes or goes".into() }
}
