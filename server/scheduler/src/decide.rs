//! The decision: filter the nodes, score what is left.

use std::collections::BTreeMap;

use crate::request::{Expression, Operator, Request};
use crate::snapshot::{Effect, Node, Snapshot, Taint, Usage};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Bind(String),
    /// Nothing fits; the text counts the nodes by reason.
    Nowhere(String),
}

/// Chooses the node for a pod. `architectures`: what all images of the pod exist for; `None` when
/// that is not known, and then nothing is excluded.
pub fn decide(snapshot: &Snapshot, request: &Request, architectures: Option<&[String]>) -> Decision {
    let mut best: Option<(i64, &str)> = None;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (name, node) in snapshot.nodes() {
        match refusals(name, node, request, architectures) {
            refused if refused.is_empty() => {
                let score = score(node, request);
                if best.is_none_or(|(top, _)| score > top) {
                    best = Some((score, name));
                }
            }
            refused => refused.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1),
        }
    }
    match best {
        Some((_, name)) => Decision::Bind(name.to_owned()),
        None => Decision::Nowhere(explain(snapshot.len(), &reasons)),
    }
}

/// In upstream's words, which people and tools search for.
fn explain(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// Why the node can not take the pod; of several reasons of one sort only the first, but all that
/// resources are short of.
fn refusals(name: &str, node: &Node, request: &Request, architectures: Option<&[String]>) -> Vec<String> {
    if node.unschedulable && !request.tolerates(&cordon()) {
        return vec!["node(s) were unschedulable".into()];
    }
    if let Some(taint) = node.taints.iter().find(|t| t.effect != Effect::PreferNoSchedule && !request.tolerates(t)) {
        return vec![format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value)];
    }
    if let Some(architectures) = architectures
        && !architectures.contains(&node.architecture)
    {
        return vec![format!(
            "node(s) of architecture {} for which the image does not exist (it exists for {})",
            node.architecture,
            architectures.join(", ")
        )];
    }
    if !request.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        || !affine(name, node, request)
    {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    if request.host_ports.iter().any(|port| node.has_host_port(port)) {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    shortages(node, request.usage)
}

/// What a cordoned node counts as for tolerations.
fn cordon() -> Taint {
    Taint { key: "node.kubernetes.io/unschedulable".into(), value: String::new(), effect: Effect::NoSchedule }
}

fn shortages(node: &Node, asked: Usage) -> Vec<String> {
    let free = node.allocatable.minus(node.used);
    let mut short = Vec::new();
    for (asked, free, reason) in [
        (asked.pods, free.pods, "Too many pods"),
        (asked.cpu_millis, free.cpu_millis, "Insufficient cpu"),
        (asked.memory_bytes, free.memory_bytes, "Insufficient memory"),
        (asked.storage_bytes, free.storage_bytes, "Insufficient ephemeral-storage"),
    ] {
        if asked > free {
            short.push(reason.to_owned());
        }
    }
    short
}

fn affine(name: &str, node: &Node, request: &Request) -> bool {
    let holds = |e: &Expression| {
        let value = if e.field {
            (e.key == "metadata.name").then_some(name)
        } else {
            node.labels.get(&e.key).map(String::as_str)
        };
        let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
        let bound = number(e.values.first().map(String::as_str));
        match e.operator {
            Operator::In => value.is_some_and(|v| e.values.iter().any(|w| w == v)),
            Operator::NotIn => value.is_none_or(|v| e.values.iter().all(|w| w != v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => number(value).zip(bound).is_some_and(|(v, b)| v > b),
            Operator::Lt => number(value).zip(bound).is_some_and(|(v, b)| v < b),
        }
    };
    request.affinity.is_empty() || request.affinity.iter().any(|term| !term.is_empty() && term.iter().all(holds))
}

/// Higher is better: first few copies of the same owner, then no taint to avoid, then the emptiest.
fn score(node: &Node, request: &Request) -> i64 {
    const COPY: i64 = 10_000;
    const AVOIDED: i64 = 5_000;
    const FULL: u64 = 1_000;
    let copies = request.owner.as_deref().map_or(0, |owner| i64::from(node.copies(owner)));
    let avoided =
        node.taints.iter().filter(|t| t.effect == Effect::PreferNoSchedule && !request.tolerates(t)).count() as i64;
    let after = node.used.plus(request.usage);
    let share = |used: u64, all: u64| {
        if all == 0 { FULL } else { (used.min(all) as u128 * u128::from(FULL) / u128::from(all)) as u64 }
    };
    let fill = share(after.cpu_millis, node.allocatable.cpu_millis)
        + share(after.memory_bytes, node.allocatable.memory_bytes)
        + share(after.pods, node.allocatable.pods);
    -(copies * COPY + avoided * AVOIDED + fill as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cluster(nodes: &[(&str, Value)]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, extra) in nodes {
            let mut node = json!({"metadata": {"labels": {"kubernetes.io/hostname": name}},
                "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}, "nodeInfo": {"architecture": "amd64"}}});
            for (key, value) in extra.as_object().into_iter().flatten() {
                node[key] = value.clone();
            }
            snapshot.set_node(name, &node);
        }
        snapshot
    }

    fn check(nodes: &[(&str, Value)], spec: Value, architectures: Option<&[&str]>, expect: Result<&str, &str>) {
        let architectures: Option<Vec<String>> = architectures.map(|a| a.iter().map(|s| s.to_string()).collect());
        let request = Request::of(&json!({"metadata": {"uid": "u"}, "spec": spec}));
        let expect = match expect {
            Ok(node) => Decision::Bind(node.into()),
            Err(text) => Decision::Nowhere(text.into()),
        };
        assert_eq!(decide(&cluster(nodes), &request, architectures.as_deref()), expect);
    }

    #[test]
    fn filters() {
        let any = json!({"containers": [{}]});
        check(&[], any.clone(), None, Err("no nodes available to schedule pods"));
        let two = [("a", json!({"spec": {"unschedulable": true}})), ("b", json!({}))];
        check(&two, any.clone(), None, Ok("b"));
        check(&two[..1], any.clone(), None, Err("0/1 nodes are available: 1 node(s) were unschedulable."));
        check(
            &two,
            json!({"nodeSelector": {"kubernetes.io/hostname": "a"}}),
            None,
            Err(
                "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable.",
            ),
        );
        let big = json!({"containers": [{"resources": {"requests": {"cpu": "3", "memory": "2Gi"}}}]});
        check(&two[1..], big, None, Err("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."));
        let tainted = [("a", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}))];
        check(&tainted, any.clone(), None, Err("0/1 nodes are available: 1 node(s) had untolerated taint {k: v}."));
        check(&tainted, json!({"tolerations": [{"key": "k", "operator": "Exists"}]}), None, Ok("a"));
        check(
            &two[1..],
            any.clone(),
            Some(&["arm64"]),
            Err(
                "0/1 nodes are available: 1 node(s) of architecture amd64 for which the image does not exist (it exists for arm64).",
            ),
        );
        check(&two[1..], any, Some(&["arm64", "amd64"]), Ok("b"));
    }

    #[test]
    fn affinity() {
        let nodes = [
            ("a", json!({"metadata": {"labels": {"n": "3"}}})),
            ("b", json!({"metadata": {"labels": {"n": "5", "z": "x"}}})),
        ];
        let term = |key: &str, operator: &str, values: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
        };
        check(&nodes, term("n", "Gt", json!(["4"])), None, Ok("b"));
        check(&nodes, term("n", "Lt", json!(["4"])), None, Ok("a"));
        check(&nodes, term("z", "Exists", json!([])), None, Ok("b"));
        check(&nodes, term("z", "DoesNotExist", json!([])), None, Ok("a"));
        check(&nodes, term("n", "In", json!(["5", "6"])), None, Ok("b"));
        check(&nodes, term("n", "NotIn", json!(["5", "6"])), None, Ok("a"));
        check(
            &nodes,
            term("n", "In", json!(["7"])),
            None,
            Err("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
        );
    }

    #[test]
    fn copies_are_spread_until_the_nodes_are_full() {
        let mut snapshot = cluster(&[("a", json!({})), ("b", json!({}))]);
        let mut placed = Vec::new();
        for i in 0..7 {
            let request = Request::of(
                &json!({"metadata": {"uid": format!("{i}"), "ownerReferences": [{"controller": true, "uid": "rs"}]}}),
            );
            match decide(&snapshot, &request, None) {
                Decision::Bind(node) => {
                    snapshot.place(&node, &request);
                    placed.push(node);
                }
                Decision::Nowhere(text) => placed.push(text),
            }
        }
        assert_eq!(placed, ["a", "b", "a", "b", "a", "b", "0/2 nodes are available: 2 Too many pods."]);
    }
}
