//! What the ledger holds, decoded, in memory: what everybody reads and nobody changes but by a
//! [`Change`] that the disk already has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_shared::codec;
use coracle_shared::desired::{
    Body, CredentialItem, DataItem, Item, ItemId, NodeConfig, PodItem, RouteItem, ServiceItem, SetHead, SetKind,
};
use coracle_shared::digest;
use coracle_shared::ids::{Digest, Generation, PodUid, StoreUuid};
use coracle_shared::report::PodReport;

use super::{Change, Contents, Head};
use crate::reconcile::fleet::{Desired, DesiredSet};
use crate::reconcile::view::{DataRef, PodView};

/// One item: its hash, and what it says.
#[derive(Clone, Debug)]
struct Held {
    hash: Digest,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Pod(Arc<Desired>),
    Data(Arc<DataItem>),
    Credential(Arc<CredentialItem>),
    Node(Arc<NodeConfig>),
    Service(Arc<ServiceItem>),
    Route(Arc<RouteItem>),
    /// Of a kind that this release does not know, or damaged: kept, and not acted on.
    Unreadable(String),
}

/// The node's whole desired state.
#[derive(Clone, Debug, Default)]
pub struct Book {
    store: Option<StoreUuid>,
    heads: [Head; 2],
    items: [BTreeMap<ItemId, Held>; 2],
    ended: BTreeMap<PodUid, Arc<PodReport>>,
    quarantined: BTreeSet<PodUid>,
}

/// What a change concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// Pods came, went or changed, or the node's set became complete.
    pub pods: bool,
    /// ConfigMaps and Secrets that came, went or changed, by namespace.
    pub data: BTreeMap<String, BTreeSet<DataRef>>,
    pub node: bool,
    pub services: bool,
    pub routes: bool,
    /// Items that cannot be read, with the reason.
    pub unreadable: Vec<(ItemId, String)>,
}

impl Book {
    /// `quarantined`: pods that two crashes were about.
    pub fn new(contents: Contents, quarantined: BTreeSet<PodUid>) -> (Self, Publication) {
        let mut book = Book { store: contents.store, heads: [contents.node, contents.shared], ..Book::default() };
        book.ended = contents.ended.into_iter().map(|(uid, report)| (uid, Arc::new(report))).collect();
        book.quarantined = quarantined;
        let mut publication = Publication { pods: true, ..Publication::default() };
        for ((set, id), (hash, body)) in contents.items {
            book.put(set, Item { id, hash, body }, &mut publication);
        }
        (book, publication)
    }

    pub fn store(&self) -> Option<StoreUuid> {
        self.store
    }

    pub fn head(&self, set: SetKind) -> SetHead {
        self.heads[set as usize].head
    }

    /// Ids and hashes in id order.
    pub fn index(&self, set: SetKind) -> Vec<(ItemId, Digest)> {
        self.items[set as usize].iter().map(|(id, held)| (id.clone(), held.hash)).collect()
    }

    /// The change that takes these items in. With a generation it is the last of its set: the new
    /// head has the digest of what the set then holds.
    pub fn stage(
        &self,
        set: SetKind,
        puts: Vec<Item>,
        deletes: Vec<ItemId>,
        last: Option<(Generation, bool)>,
    ) -> Change {
        let mut change = Change::default();
        if let Some((generation, complete)) = last {
            let mut index: BTreeMap<&ItemId, &Digest> =
                self.items[set as usize].iter().map(|(id, held)| (id, &held.hash)).collect();
            index.extend(puts.iter().map(|item| (&item.id, &item.hash)));
            deletes.iter().for_each(|id| _ = index.remove(id));
            let digest = digest::of_set(index);
            change.heads.push((set, Head { head: SetHead { generation, digest }, complete }));
        }
        for uid in deletes.iter().filter_map(pod_uid).filter(|uid| self.ended.contains_key(uid)) {
            change.forget.push(uid);
        }
        change.puts = puts.into_iter().map(|item| (set, item)).collect();
        change.deletes = deletes.into_iter().map(|id| (set, id)).collect();
        change
    }

    /// Takes in a change that the disk has.
    pub fn publish(&mut self, change: Change) -> Publication {
        let mut publication = Publication::default();
        if let Some(store) = change.store {
            self.store = Some(store);
        }
        for report in change.ended {
            self.ended.insert(report.uid.clone(), Arc::new(report));
        }
        for uid in change.forget {
            self.ended.remove(&uid);
        }
        for (set, item) in change.puts {
            self.put(set, item, &mut publication);
        }
        for (set, id) in change.deletes {
            if let Some(old) = self.items[set as usize].remove(&id) {
                publication.note(&old.what);
            }
        }
        for (set, head) in change.heads {
            publication.pods |= set == SetKind::Node && head.complete != self.heads[set as usize].complete;
            self.heads[set as usize] = head;
        }
        publication
    }

    /// Takes in what the disk turned out to hold after an error. Nothing goes by it: what was to go
    /// went when it was said.
    pub fn adopt(&mut self, found: Contents) -> Publication {
        let differs = |set: SetKind, id: &ItemId, hash: &Digest| {
            self.items[set as usize].get(id).is_none_or(|held| held.hash != *hash)
        };
        let items = found.items.into_iter().filter(|((set, id), (hash, _))| differs(*set, id, hash));
        self.publish(Change {
            store: found.store,
            heads: vec![(SetKind::Node, found.node), (SetKind::Shared, found.shared)],
            puts: items.map(|((set, id), (hash, body))| (set, Item { id, hash, body })).collect(),
            ended: found.ended.into_values().collect(),
            ..Change::default()
        })
    }

    fn put(&mut self, set: SetKind, item: Item, publication: &mut Publication) {
        let what = match codec::decode_body(&item.body) {
            Ok(body) => self.read(body),
            Err(error) => What::Unreadable(error.to_string()),
        };
        if let What::Unreadable(why) = &what {
            publication.unreadable.push((item.id.clone(), why.clone()));
        }
        publication.note(&what);
        self.items[set as usize].insert(item.id, Held { hash: item.hash, what });
    }

    fn read(&self, body: Body) -> What {
        match body {
            Body::Pod(pod) => What::Pod(Arc::new(self.desired(&pod))),
            Body::Data(data) => What::Data(Arc::new(data)),
            Body::Credential(credential) => What::Credential(Arc::new(credential)),
            Body::Node(node) => What::Node(Arc::new(node)),
            Body::Service(service) => What::Service(Arc::new(service)),
            Body::Route(route) => What::Route(Arc::new(route)),
            _ => What::Unreadable("of a kind that this release does not know".into()),
        }
    }

    fn desired(&self, pod: &PodItem) -> Desired {
        Desired {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            view: PodView::parse(pod).map(Arc::new),
            stop: pod.stop,
            ended: self.ended.get(&pod.uid).map(|r| Box::new((**r).clone())),
            quarantined: self.quarantined.contains(&pod.uid),
        }
    }

    /// Two crashes were about this pod.
    pub fn is_quarantined(&self, uid: &PodUid) -> bool {
        self.quarantined.contains(uid)
    }

    /// The pods, as the machine takes them.
    pub fn pods(&self) -> DesiredSet {
        let pod = |(id, held): (&ItemId, &Held)| match &held.what {
            What::Pod(desired) => Some((pod_uid(id)?, Arc::clone(desired))),
            _ => None,
        };
        let node = SetKind::Node as usize;
        DesiredSet { pods: self.items[node].iter().filter_map(pod).collect(), complete: self.heads[node].complete }
    }

    /// A ConfigMap or Secret.
    pub fn data(&self, secret: bool, namespace: &str, name: &str) -> Option<Arc<DataItem>> {
        let kind = if secret { "secret" } else { "configmap" };
        let id = ItemId(format!("{kind}/{namespace}/{name}"));
        match &self.items[SetKind::Node as usize].get(&id)?.what {
            What::Data(data) => Some(Arc::clone(data)),
            _ => None,
        }
    }

    /// A pull secret.
    pub fn credential(&self, namespace: &str, name: &str) -> Option<Arc<CredentialItem>> {
        let id = ItemId(format!("credential/{namespace}/{name}"));
        match &self.items[SetKind::Node as usize].get(&id)?.what {
            What::Credential(credential) => Some(Arc::clone(credential)),
            _ => None,
        }
    }

    pub fn node(&self) -> Option<Arc<NodeConfig>> {
        match &self.items[SetKind::Node as usize].get(&ItemId("node".into()))?.what {
            What::Node(node) => Some(Arc::clone(node)),
            _ => None,
        }
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceItem>> {
        self.items.iter().flat_map(|set| set.values()).filter_map(|held| match &held.what {
            What::Service(service) => Some(service),
            _ => None,
        })
    }

    pub fn routes(&self) -> impl Iterator<Item = &Arc<RouteItem>> {
        self.items.iter().flat_map(|set| set.values()).filter_map(|held| match &held.what {
            What::Route(route) => Some(route),
            _ => None,
        })
    }
}

impl Publication {
    fn note(&mut self, what: &What) {
        match what {
            What::Pod(_) => self.pods = true,
            What::Data(data) => {
                let of = DataRef { secret: data.secret, name: data.name.clone() };
                self.data.entry(data.namespace.clone()).or_default().insert(of);
            }
            What::Node(_) => self.node = true,
            What::Service(_) => self.services = true,
            What::Route(_) => self.routes = true,
            What::Credential(_) | What::Unreadable(_) => {}
        }
    }

    /// Takes in another one.
    pub fn merge(&mut self, other: Publication) {
        self.pods |= other.pods;
        self.node |= other.node;
        self.services |= other.services;
        self.routes |= other.routes;
        self.unreadable.extend(other.unreadable);
        for (namespace, refs) in other.data {
            self.data.entry(namespace).or_default().extend(refs);
        }
    }
}

fn pod_uid(id: &ItemId) -> Option<PodUid> {
    id.0.strip_prefix("pod/").map(|uid| PodUid(uid.to_owned()))
}
