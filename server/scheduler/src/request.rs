//! What a pod asks of a node, parsed once.

use coracle_shared::api::quantity::Quantity;
use coracle_shared::ids::PodUid;
use serde_json::Value;

use crate::snapshot::{Effect, Taint, Usage};

/// A toleration; `None` fields match everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toleration {
    pub key: Option<String>,
    /// `None`: operator Exists.
    pub value: Option<String>,
    pub effect: Option<Effect>,
}

/// One `matchExpressions` row of a node selector term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// Set: about the node's name (`matchFields`), otherwise about this label.
    pub field: bool,
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// The scheduling view of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub namespace: String,
    pub name: String,
    pub uid: PodUid,
    pub usage: Usage,
    pub node_selector: Vec<(String, String)>,
    /// Required node affinity: one of the terms, all expressions of it. Empty: none asked.
    pub affinity: Vec<Vec<Expression>>,
    pub tolerations: Vec<Toleration>,
    /// Host ports with their protocol (`TCP`).
    pub host_ports: Vec<(u16, String)>,
    /// What replicates the pod: its copies are spread over nodes.
    pub owner: Option<String>,
    pub images: Vec<String>,
    pub priority: i64,
}

impl Request {
    /// Reads a pod that passed validation; what is malformed all the same counts as absent.
    pub fn of(pod: &Value) -> Request {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let spec = &pod["spec"];
        Request {
            namespace: text(&pod["metadata"]["namespace"]),
            name: text(&pod["metadata"]["name"]),
            uid: PodUid(text(&pod["metadata"]["uid"])),
            usage: usage(spec),
            node_selector: spec["nodeSelector"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), text(v)))
                .collect(),
            affinity: affinity(spec),
            tolerations: array(&spec["tolerations"]).iter().map(toleration).collect(),
            host_ports: host_ports(spec),
            owner: array(&pod["metadata"]["ownerReferences"])
                .iter()
                .find(|o| o["controller"] == true)
                .map(|o| text(&o["uid"])),
            images: containers(spec).map(|c| text(&c["image"])).collect(),
            priority: spec["priority"].as_i64().unwrap_or(0),
        }
    }

    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| {
            t.key.as_ref().is_none_or(|k| *k == taint.key)
                && t.value.as_ref().is_none_or(|v| *v == taint.value)
                && t.effect.is_none_or(|e| e == taint.effect)
        })
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    array(&spec["initContainers"]).iter().chain(array(&spec["containers"]))
}

/// What the pod occupies: the sum of its containers and sidecars, or the largest init container.
pub fn usage(spec: &Value) -> Usage {
    let of = |container: &Value| {
        let requests = &container["resources"]["requests"];
        let amount = |name: &str| Quantity::from_value(&requests[name]).unwrap_or(Quantity::ZERO);
        Usage {
            cpu_millis: amount("cpu").milli().max(0) as u64,
            memory_bytes: amount("memory").units().max(0) as u64,
            storage_bytes: amount("ephemeral-storage").units().max(0) as u64,
            pods: 0,
        }
    };
    let mut running = array(&spec["containers"]).iter().map(of).fold(Usage::default(), Usage::plus);
    let mut starting = Usage::default();
    let mut sidecars = Usage::default();
    for init in array(&spec["initContainers"]) {
        if init["restartPolicy"] == "Always" {
            sidecars = sidecars.plus(of(init));
            starting = starting.max(sidecars);
        } else {
            starting = starting.max(sidecars.plus(of(init)));
        }
    }
    running = running.plus(sidecars);
    let overhead = of(&serde_json::json!({"resources": {"requests": spec["overhead"]}}));
    Usage { pods: 1, ..running.max(starting).plus(overhead) }
}

fn toleration(value: &Value) -> Toleration {
    let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    Toleration {
        key: text(&value["key"]),
        value: (value["operator"] != "Exists").then(|| value["value"].as_str().unwrap_or_default().to_owned()),
        effect: value["effect"].as_str().and_then(Effect::parse),
    }
}

fn affinity(spec: &Value) -> Vec<Vec<Expression>> {
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    array(&required["nodeSelectorTerms"])
        .iter()
        .map(|term| {
            let labels = array(&term["matchExpressions"]).iter().filter_map(|e| expression(e, false));
            labels.chain(array(&term["matchFields"]).iter().filter_map(|e| expression(e, true))).collect()
        })
        .collect()
}

fn expression(value: &Value, field: bool) -> Option<Expression> {
    let operator = match value["operator"].as_str()? {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return None,
    };
    let values = array(&value["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    Some(Expression { field, key: value["key"].as_str()?.to_owned(), operator, values })
}

fn host_ports(spec: &Value) -> Vec<(u16, String)> {
    containers(spec)
        .flat_map(|c| array(&c["ports"]))
        .filter_map(|p| {
            let port = p["hostPort"].as_u64().filter(|&n| n != 0)?;
            Some((u16::try_from(port).ok()?, p["protocol"].as_str().unwrap_or("TCP").to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: Value, cpu: u64, memory: u64) {
        let usage = usage(&spec);
        assert_eq!((usage.cpu_millis, usage.memory_bytes), (cpu, memory), "{spec}");
    }

    #[test]
    fn what_a_pod_occupies() {
        let c = |cpu: &str, memory: &str| json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}});
        check(json!({"containers": [{}]}), 0, 0);
        check(json!({"containers": [c("100m", "1Mi"), c("1", "2Mi")]}), 1100, 3 << 20);
        check(json!({"initContainers": [c("2", "1Mi")], "containers": [c("1", "2Mi")]}), 2000, 2 << 20);
        let mut sidecar = c("500m", "1Mi");
        sidecar["restartPolicy"] = "Always".into();
        check(json!({"initContainers": [sidecar, c("1", "0")], "containers": [c("200m", "1Mi")]}), 1500, 2 << 20);
        check(json!({"containers": [c("1", "1Mi")], "overhead": {"cpu": "50m"}}), 1050, 1 << 20);
    }

    #[test]
    fn tolerations() {
        let taint = Taint { key: "a".into(), value: "b".into(), effect: Effect::NoSchedule };
        let check = |toleration: Value, expect: bool| {
            let pod = json!({"spec": {"tolerations": [toleration]}});
            assert_eq!(Request::of(&pod).tolerates(&taint), expect, "{pod}");
        };
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "a", "operator": "Exists"}), true);
        check(json!({"key": "a", "value": "b"}), true);
        check(json!({"key": "a", "value": "c"}), false);
        check(json!({"key": "a", "operator": "Exists", "effect": "NoExecute"}), false);
        check(json!({"key": "c", "operator": "Exists"}), false);
    }
}
