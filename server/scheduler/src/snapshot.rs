//! The cluster as the scheduler sees it: a few hundred bytes a node, less than a hundred a pod.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use coracle_shared::api::quantity::Quantity;
use coracle_shared::ids::PodUid;
use serde_json::Value;

use crate::request::{Request, usage};

/// An amount of what nodes have and pods take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
    pub storage_bytes: u64,
    pub pods: u64,
}

impl Usage {
    pub fn plus(self, other: Usage) -> Usage {
        self.zip(other, u64::saturating_add)
    }

    pub fn minus(self, other: Usage) -> Usage {
        self.zip(other, u64::saturating_sub)
    }

    pub fn max(self, other: Usage) -> Usage {
        self.zip(other, Ord::max)
    }

    fn zip(self, other: Usage, f: fn(u64, u64) -> u64) -> Usage {
        Usage {
            cpu_millis: f(self.cpu_millis, other.cpu_millis),
            memory_bytes: f(self.memory_bytes, other.memory_bytes),
            storage_bytes: f(self.storage_bytes, other.storage_bytes),
            pods: f(self.pods, other.pods),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

impl Effect {
    pub fn parse(text: &str) -> Option<Effect> {
        match text {
            "NoSchedule" => Some(Effect::NoSchedule),
            "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
            "NoExecute" => Some(Effect::NoExecute),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: Effect,
}

/// One node, with what its pods take.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    /// `amd64`, `arm64`, `arm`; empty until the node reported.
    pub architecture: String,
    pub allocatable: Usage,
    pub used: Usage,
    host_ports: Vec<(u16, String)>,
    /// How many pods of an owner are here.
    owners: HashMap<String, u32>,
}

impl Node {
    fn describe(&mut self, node: &Value) {
        let amounts = &node["status"]["allocatable"];
        let amount = |name: &str| Quantity::from_value(&amounts[name]).unwrap_or(Quantity::ZERO);
        self.allocatable = Usage {
            cpu_millis: amount("cpu").milli().max(0) as u64,
            memory_bytes: amount("memory").units().max(0) as u64,
            storage_bytes: amount("ephemeral-storage").units().max(0) as u64,
            pods: amount("pods").units().max(0) as u64,
        };
        self.labels = node["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect();
        self.taints = node["spec"]["taints"].as_array().into_iter().flatten().filter_map(taint).collect();
        self.unschedulable = node["spec"]["unschedulable"] == true;
        self.architecture = node["status"]["nodeInfo"]["architecture"].as_str().unwrap_or_default().to_owned();
    }

    pub fn copies(&self, owner: &str) -> u32 {
        self.owners.get(owner).copied().unwrap_or(0)
    }

    pub fn has_host_port(&self, port: &(u16, String)) -> bool {
        self.host_ports.contains(port)
    }

    fn add(&mut self, pod: &Placed) {
        self.used = self.used.plus(pod.usage);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        if let Some(owner) = &pod.owner {
            *self.owners.entry(owner.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, pod: &Placed) {
        self.used = self.used.minus(pod.usage);
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|p| p == port) {
                self.host_ports.swap_remove(at);
            }
        }
        if let Some(owner) = &pod.owner
            && let Some(count) = self.owners.get_mut(owner)
        {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

fn taint(value: &Value) -> Option<Taint> {
    Some(Taint {
        key: value["key"].as_str()?.to_owned(),
        value: value["value"].as_str().unwrap_or_default().to_owned(),
        effect: Effect::parse(value["effect"].as_str()?)?,
    })
}

/// What a bound pod takes, kept to give it back.
#[derive(Clone, Debug)]
struct Placed {
    node: String,
    usage: Usage,
    host_ports: Vec<(u16, String)>,
    owner: Option<String>,
}

/// Nodes and what is placed on them. A pod on a node that is not known (yet) is kept and counted
/// once the node appears.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, Node>,
    known: BTreeSet<String>,
    placed: HashMap<PodUid, Placed>,
}

impl Snapshot {
    /// The nodes that exist, in name order.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().filter(|(name, _)| self.known.contains(*name)).map(|(name, node)| (name.as_str(), node))
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub fn set_node(&mut self, name: &str, node: &Value) {
        self.known.insert(name.to_owned());
        self.nodes.entry(name.to_owned()).or_default().describe(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        self.known.remove(name);
        if self.nodes.get(name).is_some_and(|node| node.used == Usage::default()) {
            self.nodes.remove(name);
        }
    }

    /// Takes in a pod as it is now: bound and not ended, it occupies its node; otherwise nothing.
    pub fn set_pod(&mut self, pod: &Value) {
        let uid = PodUid(pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned());
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if node.is_empty() || ended {
            self.remove_pod(&uid);
        } else if self.placed.get(&uid).is_none_or(|p| p.node != node || p.usage != usage(&pod["spec"])) {
            self.place(node, &Request::of(pod));
        }
    }

    /// Books a pod onto a node: before its binding is stored, so that the next decision counts it.
    pub fn place(&mut self, node: &str, request: &Request) {
        self.remove_pod(&request.uid);
        let placed = Placed {
            node: node.to_owned(),
            usage: request.usage,
            host_ports: request.host_ports.clone(),
            owner: request.owner.clone(),
        };
        self.nodes.entry(node.to_owned()).or_default().add(&placed);
        self.placed.insert(request.uid.clone(), placed);
    }

    pub fn is_placed(&self, uid: &PodUid) -> bool {
        self.placed.contains_key(uid)
    }

    pub fn remove_pod(&mut self, uid: &PodUid) {
        if let Some(placed) = self.placed.remove(uid)
            && let Some(node) = self.nodes.get_mut(&placed.node)
        {
            node.remove(&placed);
            if node.used == Usage::default() && !self.known.contains(&placed.node) {
                self.nodes.remove(&placed.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, node: &str, cpu: &str, phase: &str) -> Value {
        json!({"metadata": {"uid": uid, "ownerReferences": [{"controller": true, "uid": "rs"}]},
               "spec": {"nodeName": node, "containers": [{"ports": [{"hostPort": 80}], "resources": {"requests": {"cpu": cpu}}}]},
               "status": {"phase": phase}})
    }

    #[test]
    fn what_is_taken_is_given_back() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node("a", &json!({}));
        snapshot.set_node("b", &json!({}));
        let used = |s: &Snapshot, name: &str| {
            s.nodes().find(|(n, _)| *n == name).map(|(_, n)| (n.used.cpu_millis, n.used.pods, n.copies("rs")))
        };
        for _ in 0..2 {
            snapshot.set_pod(&pod("1", "a", "1", "Running"));
        }
        snapshot.set_pod(&pod("2", "a", "2", "Pending"));
        assert_eq!(used(&snapshot, "a"), Some((3000, 2, 2)));
        snapshot.set_pod(&pod("1", "b", "1", "Running"));
        assert_eq!((used(&snapshot, "a"), used(&snapshot, "b")), (Some((2000, 1, 1)), Some((1000, 1, 1))));
        snapshot.set_pod(&pod("2", "a", "2", "Succeeded"));
        snapshot.remove_pod(&PodUid("1".into()));
        snapshot.remove_pod(&PodUid("1".into()));
        assert_eq!((used(&snapshot, "a"), used(&snapshot, "b")), (Some((0, 0, 0)), Some((0, 0, 0))));
        assert!(snapshot.placed.is_empty());
    }

    #[test]
    fn pods_before_their_node() {
        let mut snapshot = Snapshot::default();
        snapshot.set_pod(&pod("1", "late", "1", "Running"));
        assert!(snapshot.is_empty() && snapshot.nodes().next().is_none());
        snapshot.set_node("late", &json!({}));
        assert_eq!(snapshot.nodes().next().map(|(_, n)| n.used.cpu_millis), Some(1000));
        snapshot.remove_node("late");
        assert!(snapshot.nodes().next().is_none());
        snapshot.remove_pod(&PodUid("1".into()));
        assert!(snapshot.nodes.is_empty());
    }
}
