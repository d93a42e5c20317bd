//! What a node's ledger goes through, and what it then has to hold.

use std::collections::BTreeMap;

use coracle_agent::ledger::{Change, Contents, Head, Seal};
use coracle_shared::codec;
use coracle_shared::desired::{Body, DataItem, Item, ItemId, PodItem, SetHead, SetKind};
use coracle_shared::ids::{Generation, PodUid, StoreUuid};
use coracle_shared::report::{Phase, PodReport};

/// Enough for a tree of several pages, so that a change leaves most of them as they are.
const PODS: u64 = 40;

pub fn seal() -> Seal {
    Seal::new(&[7; 32])
}

pub fn pod(number: u64, version: u64) -> Item {
    let object = format!(r#"{{"spec":{{"containers":[{{"name":"a","image":"x:{version}"}}]}}}}"#);
    codec::item(&Body::Pod(PodItem {
        uid: uid(number),
        namespace: "default".into(),
        name: format!("pod-{number}"),
        object: format!("{object}{}", " ".repeat(400)).into_bytes(),
        stop: None,
    }))
}

fn uid(number: u64) -> PodUid {
    PodUid(format!("u-{number}"))
}

fn secret(version: u64) -> Item {
    let data = BTreeMap::from([("password".to_owned(), version.to_string().into_bytes())]);
    codec::item(&Body::Data(DataItem { secret: true, namespace: "default".into(), name: "s".into(), data }))
}

pub fn ended(number: u64) -> PodReport {
    PodReport {
        uid: uid(number),
        namespace: "default".into(),
        name: format!("pod-{number}"),
        phase: Phase::Succeeded,
        reason: String::new(),
        message: String::new(),
        host_ip: None,
        pod_ip: None,
        started_at: Some(1),
        initialized: true,
        ready: false,
        init_containers: Vec::new(),
        containers: Vec::new(),
        gone: false,
    }
}

fn head(revision: u64) -> (SetKind, Head) {
    let generation = Generation { epoch: 1, revision };
    (SetKind::Node, Head { head: SetHead { generation, ..SetHead::default() }, complete: true })
}

/// The change of a step: pods come, change, end, go.
pub fn step(number: u64) -> Change {
    let node = SetKind::Node;
    let some = number * 7 % PODS;
    match number {
        0 => Change { store: Some(StoreUuid([9; 16])), ..Change::default() },
        1 => Change { puts: (0..PODS).map(|n| (node, pod(n, 0))).collect(), heads: vec![head(1)], ..Change::default() },
        _ => match number % 4 {
            0 => Change {
                puts: vec![(node, pod(some, number)), (node, secret(number))],
                heads: vec![head(number)],
                ..Change::default()
            },
            1 => Change { ended: vec![ended(some)], ..Change::default() },
            2 => Change {
                deletes: vec![(node, pod(some, 0).id), (node, ItemId("none".into()))],
                forget: vec![uid(some)],
                heads: vec![head(number)],
                ..Change::default()
            },
            _ => Change { puts: vec![(node, pod(some, number)), (node, pod(PODS + number, 0))], ..Change::default() },
        },
    }
}

/// The contents after a change.
pub fn after(mut contents: Contents, change: &Change) -> Contents {
    contents.store = change.store.or(contents.store);
    for (set, head) in &change.heads {
        *(if *set == SetKind::Node { &mut contents.node } else { &mut contents.shared }) = *head;
    }
    for (set, item) in &change.puts {
        contents.items.insert((*set, item.id.clone()), (item.hash, item.body.clone()));
    }
    for (set, id) in &change.deletes {
        contents.items.remove(&(*set, id.clone()));
    }
    contents.ended.extend(change.ended.iter().map(|report| (report.uid.clone(), report.clone())));
    change.forget.iter().for_each(|uid| _ = contents.ended.remove(uid));
    contents
}

/// Names what differs, for people.
pub fn differs(got: &Contents, want: &Contents) -> String {
    let missing: Vec<_> = want.items.iter().filter(|(k, v)| got.items.get(k) != Some(v)).map(|(k, _)| &k.1.0).collect();
    let more: Vec<_> = got.items.keys().filter(|k| !want.items.contains_key(k)).map(|k| &k.1.0).collect();
    format!(
        "missing or other {missing:?}, too many {more:?}, heads alike: {}, ended alike: {}",
        got.node == want.node,
        got.ended == want.ended
    )
}
