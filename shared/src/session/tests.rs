use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::codec;
use crate::desired::{Body, DataItem, Item, ItemId, SetHead, SetKind};
use crate::digest;
use crate::ids::{ClusterId, Digest, Generation, PodUid, StoreUuid};
use crate::report::{EventReport, Phase, PodReport};
use crate::wire::*;

fn item(name: &str, content: &str) -> Arc<Item> {
    let data = [("k".to_owned(), content.as_bytes().to_vec())].into();
    let body = Body::Data(DataItem { secret: false, namespace: "d".into(), name: name.into(), data });
    Arc::new(codec::item(&body))
}

fn compiled(items: &[(&str, &str)]) -> Compiled {
    let items = items.iter().map(|(n, c)| item(n, c)).map(|i| (i.id.clone(), i)).collect();
    Compiled { items, missing: Default::default() }
}

fn missing(mut compiled: Compiled, names: &[&str]) -> Compiled {
    compiled.missing = names.iter().map(|n| ItemId(format!("configmap/d/{n}"))).collect();
    compiled
}

fn generation(revision: u64) -> Generation {
    Generation { epoch: 1, revision }
}

fn empty(revision: u64) -> DesiredSet {
    DesiredSet::new(generation(revision), Compiled::default())
}

const STORE: StoreUuid = StoreUuid([7; 16]);
const CLUSTER: ClusterId = ClusterId([1; 16]);

fn server() -> ServerSession {
    let identity = ServerIdentity {
        cluster: CLUSTER,
        store: STORE,
        protocols: PROTOCOLS,
        features: Features::RENEW,
        version: "t".into(),
    };
    ServerSession::new(identity, "n1".into(), Standing::Valid, Millis(0))
}

/// A ledger in memory: what the agent's disk holds.
#[derive(Clone, Debug, Default)]
struct Ledger {
    store: Option<StoreUuid>,
    sets: [BTreeMap<ItemId, Digest>; 2],
    generations: [Generation; 2],
    applies: usize,
    /// This many of the next writes fail.
    broken: usize,
}

impl Ledger {
    fn hello(&self) -> Hello {
        Hello {
            protocols: PROTOCOLS,
            features: Features::default(),
            cluster: CLUSTER,
            node: "n1".into(),
            store: self.store,
            heads: Heads { node: self.head(SetKind::Node), shared: self.head(SetKind::Shared) },
            agent_version: "t".into(),
        }
    }

    fn digest(&self, set: SetKind) -> Digest {
        digest::of_set(&self.sets[set as usize])
    }

    fn head(&self, set: SetKind) -> SetHead {
        let generation = self.generations[set as usize];
        match generation == Generation::default() && self.sets[set as usize].is_empty() {
            true => SetHead::default(),
            false => SetHead { generation, digest: self.digest(set) },
        }
    }

    fn apply(&mut self, apply: Apply) -> Result<Digest, String> {
        if self.broken > 0 {
            self.broken -= 1;
            return Err("disk full".into());
        }
        self.applies += 1;
        let set = &mut self.sets[apply.set as usize];
        set.extend(apply.puts.into_iter().map(|item| (item.id, item.hash)));
        apply.deletes.iter().for_each(|id| {
            set.remove(id);
        });
        if let Some(generation) = apply.generation {
            self.generations[apply.set as usize] = generation;
        }
        Ok(self.digest(apply.set))
    }

    fn holds(&self, set: SetKind, expect: &[(&str, &str)]) {
        let expect: BTreeMap<ItemId, Digest> =
            expect.iter().map(|(n, c)| item(n, c)).map(|i| (i.id.clone(), i.hash)).collect();
        assert_eq!(self.sets[set as usize], expect, "{set:?}");
    }
}

/// Two ends and what is between them, in both directions, as bytes.
struct Pair {
    server: ServerSession,
    agent: AgentSession,
    to_agent: VecDeque<Vec<u8>>,
    to_server: VecDeque<Vec<u8>>,
    outputs: Vec<ServerOutput>,
    reported: Vec<u64>,
    now: Millis,
}

impl Pair {
    fn new(ledger: &Ledger) -> Pair {
        Pair {
            server: server(),
            agent: AgentSession::new(ledger.hello()),
            to_agent: VecDeque::new(),
            to_server: VecDeque::new(),
            outputs: Vec::new(),
            reported: Vec::new(),
            now: Millis(0),
        }
    }

    fn step_agent(&mut self, ledger: &mut Ledger) -> bool {
        let Some(output) = self.agent.poll_output() else { return false };
        match output {
            AgentOutput::Send(message) => self.to_server.push_back(codec::encode(&message)),
            AgentOutput::Welcomed(welcome) => ledger.store = Some(welcome.store),
            AgentOutput::NeedIndex(set) => {
                self.agent.index(set, ledger.sets[set as usize].clone().into_iter().collect());
            }
            AgentOutput::Apply(apply) => {
                let set = apply.set;
                match ledger.apply(apply) {
                    Ok(digest) => self.agent.applied(set, digest),
                    Err(reason) => self.agent.failed(set, reason),
                }
            }
            AgentOutput::Reported(sequence) => self.reported.push(sequence),
            AgentOutput::RenewFirst | AgentOutput::Renewed(_) => panic!("{output:?}"),
        }
        true
    }

    /// One thing that can happen; false when nothing can.
    fn step(&mut self, sets: [Option<&DesiredSet>; 2], ledger: &mut Ledger) -> Result<bool, Ended> {
        if self.step_agent(ledger) {
            return Ok(true);
        }
        if let Some(bytes) = self.to_server.pop_front() {
            self.server.handle(codec::decode_evolving(&bytes).unwrap(), self.now, 5)?;
            while let Some(output) = self.server.poll_output() {
                if let ServerOutput::Report(report) = &output {
                    self.server.reported(report.sequence);
                }
                self.outputs.push(output);
            }
            return Ok(true);
        }
        if let Some(message) = self.server.poll_transmit(sets, self.now) {
            self.to_agent.push_back(codec::encode(&message));
            return Ok(true);
        }
        if let Some(bytes) = self.to_agent.pop_front() {
            self.agent.handle(codec::decode_evolving(&bytes).unwrap())?;
            return Ok(true);
        }
        Ok(false)
    }

    fn run(&mut self, sets: [Option<&DesiredSet>; 2], ledger: &mut Ledger) -> Result<(), Ended> {
        while self.step(sets, ledger)? {}
        Ok(())
    }
}

fn connect(node: &DesiredSet, shared: &DesiredSet, ledger: &mut Ledger) -> Pair {
    let mut pair = Pair::new(ledger);
    pair.run([Some(node), Some(shared)], ledger).unwrap();
    assert!(pair.server.is_synced([Some(node), Some(shared)]));
    pair
}

#[test]
fn a_new_agent_gets_everything_and_a_reconnect_sends_nothing() {
    let node = DesiredSet::new(generation(5), compiled(&[("a", "1"), ("b", "2")]));
    let shared = DesiredSet::new(generation(5), compiled(&[("s", "1")]));
    let mut ledger = Ledger::default();
    assert_eq!(connect(&node, &shared, &mut ledger).server.items_sent(), 3);
    ledger.holds(SetKind::Node, &[("a", "1"), ("b", "2")]);
    let applies = ledger.applies;
    assert_eq!(connect(&node, &shared, &mut ledger).server.items_sent(), 0);
    assert_eq!(ledger.applies, applies, "nothing was written");
    // Another server start compiles the same content at a later revision.
    let later = DesiredSet::new(generation(9), compiled(&[("a", "1"), ("b", "2")]));
    assert_eq!(connect(&later, &shared, &mut ledger).server.items_sent(), 0);
}

#[test]
fn a_change_travels_alone() {
    let mut node = DesiredSet::new(generation(5), compiled(&[("a", "1"), ("b", "2"), ("c", "3")]));
    let shared = empty(5);
    let mut ledger = Ledger::default();
    let mut pair = connect(&node, &shared, &mut ledger);
    assert!(node.update(generation(6), compiled(&[("a", "1"), ("b", "new")])));
    pair.run([Some(&node), Some(&shared)], &mut ledger).unwrap();
    assert_eq!(pair.server.items_sent(), 4);
    ledger.holds(SetKind::Node, &[("a", "1"), ("b", "new")]);
    assert_eq!(ledger.head(SetKind::Node), node.head());
    assert!(!node.update(generation(7), compiled(&[("a", "1"), ("b", "new")])), "nothing changed");
    assert_eq!(node.head().generation, generation(6));
}

#[test]
fn after_a_server_start_only_what_differs_travels() {
    let shared = empty(5);
    let mut ledger = Ledger::default();
    connect(&DesiredSet::new(generation(5), compiled(&[("a", "1"), ("b", "2"), ("c", "3")])), &shared, &mut ledger);
    // A server without history: the agent's index tells.
    let node = DesiredSet::new(generation(8), compiled(&[("b", "2"), ("c", "4"), ("d", "5")]));
    let pair = connect(&node, &shared, &mut ledger);
    assert_eq!(pair.server.items_sent(), 2);
    ledger.holds(SetKind::Node, &[("b", "2"), ("c", "4"), ("d", "5")]);
}

#[test]
fn what_is_missing_is_kept() {
    let shared = empty(5);
    let mut ledger = Ledger::default();
    let mut node = DesiredSet::new(generation(5), compiled(&[("a", "1"), ("b", "2")]));
    let mut pair = connect(&node, &shared, &mut ledger);
    // In the running server the set itself keeps it …
    assert!(!node.update(generation(6), missing(compiled(&[("a", "1")]), &["b"])));
    pair.run([Some(&node), Some(&shared)], &mut ledger).unwrap();
    ledger.holds(SetKind::Node, &[("a", "1"), ("b", "2")]);
    // … and after a start only the agent has it, and keeps it.
    let node = DesiredSet::new(generation(7), missing(compiled(&[("a", "9")]), &["b"]));
    connect(&node, &shared, &mut ledger);
    ledger.holds(SetKind::Node, &[("a", "9"), ("b", "2")]);
    // Sent whole, it is still kept, because the set is not complete.
    ledger.generations[0] = generation(7);
    ledger.sets[0].insert(ItemId("configmap/d/zz".into()), Digest::default());
    let mut again = Pair::new(&ledger);
    again.run([Some(&node), Some(&shared)], &mut ledger).unwrap();
    assert!(ledger.sets[0].contains_key(&ItemId("configmap/d/b".into())));
    assert!(ledger.sets[0].contains_key(&ItemId("configmap/d/zz".into())));
}

#[test]
fn what_was_kept_goes_once_the_set_is_complete() {
    let shared = empty(5);
    let mut ledger = Ledger::default();
    connect(&DesiredSet::new(generation(5), compiled(&[("a", "1"), ("b", "2")])), &shared, &mut ledger);
    let mut node = DesiredSet::new(generation(7), missing(compiled(&[("a", "1")]), &["b"]));
    let mut pair = connect(&node, &shared, &mut ledger);
    assert!(node.update(generation(8), compiled(&[("a", "2")])));
    pair.run([Some(&node), Some(&shared)], &mut ledger).unwrap();
    ledger.holds(SetKind::Node, &[("a", "2")]);
}

#[test]
fn the_same_generation_with_another_digest_is_sent_whole() {
    let (node, shared) = (DesiredSet::new(generation(5), compiled(&[("a", "1"), ("b", "2")])), empty(5));
    let mut ledger = Ledger::default();
    connect(&node, &shared, &mut ledger);
    ledger.sets[0].remove(&ItemId("configmap/d/a".into()));
    ledger.sets[0].insert(ItemId("configmap/d/x".into()), Digest::default());
    let pair = connect(&node, &shared, &mut ledger);
    assert_eq!(pair.server.items_sent(), 2);
    ledger.holds(SetKind::Node, &[("a", "1"), ("b", "2")]);
}

#[test]
fn an_older_generation_is_refused_and_a_higher_epoch_is_not() {
    let shared = empty(5);
    let mut ledger = Ledger::default();
    connect(&DesiredSet::new(generation(9), compiled(&[("a", "1")])), &shared, &mut ledger);
    // The server does not even offer it …
    let old = DesiredSet::new(generation(4), compiled(&[("b", "2")]));
    let mut pair = Pair::new(&ledger);
    pair.run([Some(&old), Some(&shared)], &mut ledger).unwrap();
    assert_eq!(pair.server.items_sent(), 0);
    // … and if one does, the agent says no.
    let mut agent = AgentSession::new(ledger.hello());
    let (to, set) = (old.head(), SetKind::Node);
    agent.handle(ToAgent::Welcome(welcome())).unwrap();
    agent.handle(ToAgent::Begin { set, to, mode: SyncMode::Full, complete: true }).unwrap();
    agent.handle(ToAgent::End { set }).unwrap();
    let mut last = None;
    while let Some(output) = agent.poll_output() {
        assert!(!matches!(output, AgentOutput::Apply(_)));
        last = Some(output);
    }
    let held = ledger.head(set);
    assert_eq!(last, Some(AgentOutput::Send(ToServer::Rejected { set, to, why: Rejection::Older { held } })));
    // A restored backup has lower revisions in a higher epoch.
    let restored = DesiredSet::new(Generation { epoch: 2, revision: 3 }, compiled(&[("b", "2")]));
    connect(&restored, &shared, &mut ledger);
    ledger.holds(SetKind::Node, &[("b", "2")]);
}

fn welcome() -> Welcome {
    Welcome {
        protocol: 1,
        features: Features::default(),
        cluster: CLUSTER,
        store: STORE,
        now: 0,
        server_version: "t".into(),
    }
}

#[test]
fn strangers_are_refused_on_both_sides() {
    let sets = empty(1);
    let check = |change: fn(&mut Hello), code| {
        let mut hello = Ledger::default().hello();
        change(&mut hello);
        let mut server = server();
        let ended = server.handle(ToServer::Hello(hello), Millis(0), 0).unwrap_err();
        assert!(matches!(&ended, Ended::Foreign(refuse) if refuse.code == code), "{ended}");
        let sent = server.poll_transmit([Some(&sets), Some(&sets)], Millis(0));
        assert!(matches!(sent, Some(ToAgent::Refuse(refuse)) if refuse.code == code));
        assert_eq!(server.poll_transmit([Some(&sets), Some(&sets)], Millis(0)), None);
        assert_eq!(server.poll_output(), None);
    };
    check(|h| h.cluster = ClusterId([9; 16]), RefuseCode::Cluster);
    check(|h| h.store = Some(StoreUuid([9; 16])), RefuseCode::Store);
    check(|h| h.node = "other".into(), RefuseCode::Identity);
    check(|h| h.protocols = ProtocolRange { min: 8, max: 9 }, RefuseCode::Protocol);

    let check = |change: fn(&mut Welcome)| {
        let mut agent = AgentSession::new(Ledger { store: Some(STORE), ..Ledger::default() }.hello());
        let mut foreign = welcome();
        change(&mut foreign);
        assert!(agent.handle(ToAgent::Welcome(foreign)).is_err());
    };
    check(|w| w.store = StoreUuid([9; 16]));
    check(|w| w.cluster = ClusterId([9; 16]));
    check(|w| w.protocol = 7);
}

#[test]
fn a_ledger_that_can_not_write_is_offered_the_set_again() {
    let (node, shared) = (DesiredSet::new(generation(5), compiled(&[("a", "1")])), empty(5));
    let mut ledger = Ledger { broken: 1, ..Ledger::default() };
    let mut pair = Pair::new(&ledger);
    let sets = [Some(&node), Some(&shared)];
    pair.run(sets, &mut ledger).unwrap();
    ledger.holds(SetKind::Node, &[]);
    assert!(matches!(&pair.outputs[1], ServerOutput::Rejected { why: Rejection::Storage(_), .. }));
    pair.now = pair.server.poll_timeout().unwrap();
    assert_eq!(pair.now, Millis(STORAGE_RETRY));
    pair.run(sets, &mut ledger).unwrap();
    ledger.holds(SetKind::Node, &[("a", "1")]);
}

#[test]
fn large_sets_travel_in_bounded_batches() {
    let names: Vec<String> = (0..700).map(|i| format!("{i:04}")).collect();
    let big = "x".repeat(BATCH_BYTES * 2);
    let mut pairs: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "1")).collect();
    pairs.push(("zz", &big));
    let (node, shared) = (DesiredSet::new(generation(5), compiled(&pairs)), empty(5));
    let mut server = server();
    server.handle(ToServer::Hello(Ledger::default().hello()), Millis(0), 0).unwrap();
    let mut batches = 0;
    while let Some(message) = server.poll_transmit([Some(&node), Some(&shared)], Millis(0)) {
        if let ToAgent::Items { puts, .. } = &message {
            batches += 1;
            let bytes: usize = puts.iter().map(|i| i.body.len()).sum();
            assert!(puts.len() <= BATCH_ITEMS && (bytes <= BATCH_BYTES * 2 + (64 << 10)));
            assert!(codec::frame(&message).len() <= codec::MAX_FRAME);
        }
    }
    assert_eq!(batches, 3);
    let mut ledger = Ledger::default();
    connect(&node, &shared, &mut ledger);
    assert_eq!(ledger.sets[0].len(), 701);
    // Its index comes back in parts.
    let later = DesiredSet::new(generation(9), compiled(&pairs[1..]));
    assert_eq!(connect(&later, &shared, &mut ledger).server.items_sent(), 0);
    assert_eq!(ledger.sets[0].len(), 700);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_cut_off() {
    let check = |messages: Vec<ToServer>| {
        let mut server = server();
        server.handle(ToServer::Hello(Ledger::default().hello()), Millis(0), 0).unwrap();
        let outcome = messages.into_iter().try_for_each(|m| server.handle(m, Millis(0), 0));
        assert!(matches!(outcome, Err(Ended::Violation(_))));
    };
    let set = SetKind::Node;
    check(vec![ToServer::Hello(Ledger::default().hello())]);
    check(vec![ToServer::Persisted { set, to: SetHead::default() }]);
    check(vec![ToServer::Index { set, entries: vec![], last: true }]);
    check(vec![ToServer::Report(Box::new(Report { sequence: 2, ..Report::default() }))]);
    let mut silent = server();
    assert_eq!(silent.handle_timeout(Millis(HELLO_TIMEOUT)), Err(Ended::Silent));

    let check = |messages: Vec<ToAgent>| {
        let mut agent = AgentSession::new(Ledger::default().hello());
        agent.handle(ToAgent::Welcome(welcome())).unwrap();
        let outcome = messages.into_iter().try_for_each(|m| agent.handle(m));
        assert!(matches!(outcome, Err(Ended::Violation(_))));
    };
    let begin = ToAgent::Begin { set, to: SetHead::default(), mode: SyncMode::Full, complete: true };
    check(vec![begin.clone(), begin.clone()]);
    check(vec![ToAgent::End { set }]);
    check(vec![ToAgent::Items { set, puts: vec![], deletes: vec![] }]);
    check(vec![ToAgent::Reported { sequence: 1 }]);
    check(vec![begin.clone(), ToAgent::End { set }, ToAgent::End { set }]);
    let mut bad = Arc::unwrap_or_clone(item("a", "1"));
    bad.body.push(0);
    check(vec![begin.clone(), ToAgent::Items { set, puts: vec![bad], deletes: vec![] }]);
    check(vec![begin, ToAgent::Items { set, puts: vec![], deletes: vec![ItemId("x".into())] }]);
}

fn pod(uid: &str, phase: Phase) -> PodReport {
    PodReport {
        uid: PodUid(uid.into()),
        namespace: "d".into(),
        name: uid.into(),
        phase,
        reason: String::new(),
        message: String::new(),
        host_ip: None,
        pod_ip: None,
        started_at: None,
        initialized: false,
        ready: false,
        init_containers: vec![],
        containers: vec![],
        gone: false,
    }
}

fn event(message: &str) -> EventReport {
    EventReport {
        pod: None,
        field_path: String::new(),
        warning: false,
        reason: "R".into(),
        message: message.into(),
        at: 0,
    }
}

fn node_report() -> crate::report::NodeReport {
    crate::report::NodeReport {
        addresses: vec![],
        hostname: "n1".into(),
        capacity: Default::default(),
        allocatable: Default::default(),
        architecture: "amd64".into(),
        os_image: String::new(),
        kernel: String::new(),
        machine_id: String::new(),
        boot_id: String::new(),
        agent_version: String::new(),
        conditions: vec![],
        labels: Default::default(),
    }
}

#[test]
fn reports_are_coalesced_acknowledged_and_told_again_in_a_new_session() {
    let mut outbox = Outbox::default();
    assert_eq!(outbox.next_report(1), None, "without the node's own report nothing is whole");
    outbox.node(node_report());
    outbox.pod(pod("a", Phase::Pending));
    outbox.event(event("one"));
    let first = outbox.next_report(1).unwrap();
    assert!(first.whole && first.node.is_some());
    assert_eq!((first.pods.len(), first.events.len()), (1, 1));
    // While it is under way two changes become one.
    outbox.pod(pod("a", Phase::Running));
    outbox.pod(pod("a", Phase::Succeeded));
    assert!(!outbox.is_ready());
    outbox.acknowledged(1);
    let second = outbox.next_report(2).unwrap();
    assert_eq!(second.pods, [pod("a", Phase::Succeeded)]);
    assert!(second.events.is_empty() && !second.whole);
    outbox.acknowledged(2);
    outbox.pod(pod("a", Phase::Succeeded));
    assert!(!outbox.is_ready(), "nothing new");
    // The connection breaks before an acknowledgement: events are kept, everything is told.
    outbox.event(event("two"));
    outbox.next_report(3).unwrap();
    outbox.restart();
    let again = outbox.next_report(1).unwrap();
    assert!(again.whole && again.node.is_some());
    assert_eq!((again.pods.len(), again.events.len()), (1, 1));
}

#[test]
fn many_pods_are_told_in_parts_and_events_are_bounded() {
    let mut outbox = Outbox::default();
    outbox.node(node_report());
    (0..120).for_each(|i| outbox.pod(pod(&format!("{i:03}"), Phase::Running)));
    (0..MAX_EVENTS + 10).for_each(|i| outbox.event(event(&i.to_string())));
    assert_eq!(outbox.events_dropped(), 10);
    let mut wholes = Vec::new();
    let mut sequence = 0;
    while outbox.is_ready() {
        sequence += 1;
        let report = outbox.next_report(sequence).unwrap();
        assert!(report.pods.len() + report.events.len() < 100, "one commit");
        wholes.push(report.whole);
        outbox.acknowledged(sequence);
    }
    assert_eq!(wholes, [false, false, true, false, false, false, false]);
}

#[test]
fn reports_pass_the_session_in_order() {
    let (node, shared) = (empty(1), empty(1));
    let mut ledger = Ledger::default();
    let mut pair = connect(&node, &shared, &mut ledger);
    pair.agent.report(Report::default());
    pair.agent.report(Report::default());
    pair.agent.liveness(false);
    pair.run([Some(&node), Some(&shared)], &mut ledger).unwrap();
    assert_eq!(pair.reported, [1, 2]);
    assert!(pair.outputs.contains(&ServerOutput::Liveness(false)));
}

/// Connections break anywhere, writes fail, the server restarts and compiles anew; once that stops,
/// the ledger holds what the server wants, and nothing that was right was sent twice.
fn converges(script: Vec<(u8, u8, u16)>) {
    let mut ledger = Ledger::default();
    let mut content: BTreeMap<String, String> = BTreeMap::new();
    let mut revision = 1;
    let mut node = empty(revision);
    let shared = empty(revision);
    for (what, name, cut) in script {
        revision += 1;
        match what % 4 {
            0 => drop(content.remove(&format!("{}", name % 8))),
            _ => drop(content.insert(format!("{}", name % 8), format!("{revision}"))),
        }
        let pairs: Vec<(&str, &str)> = content.iter().map(|(n, c)| (n.as_str(), c.as_str())).collect();
        if what % 5 == 0 {
            node = DesiredSet::new(generation(revision), compiled(&pairs));
        } else {
            node.update(generation(revision), compiled(&pairs));
        }
        ledger.broken = usize::from(what % 7 == 0);
        let mut pair = Pair::new(&ledger);
        for _ in 0..cut % 60 {
            if !pair.step([Some(&node), Some(&shared)], &mut ledger).unwrap() {
                break;
            }
        }
    }
    ledger.broken = 0;
    connect(&node, &shared, &mut ledger);
    let pairs: Vec<(&str, &str)> = content.iter().map(|(n, c)| (n.as_str(), c.as_str())).collect();
    ledger.holds(SetKind::Node, &pairs);
    assert_eq!(connect(&node, &shared, &mut ledger).server.items_sent(), 0);
}

fn server_of(protocols: ProtocolRange, standing: Standing) -> ServerSession {
    let identity =
        ServerIdentity { cluster: CLUSTER, store: STORE, protocols, features: Features::RENEW, version: "t".into() };
    ServerSession::new(identity, "n1".into(), standing, Millis(0))
}

#[test]
fn the_newest_common_protocol_is_spoken_and_none_in_common_is_said() {
    let check = |server: (u16, u16), agent: (u16, u16), expect: Option<u16>| {
        let range = |(min, max)| ProtocolRange { min, max };
        let mut session = server_of(range(server), Standing::Valid);
        let hello = Hello { protocols: range(agent), ..Ledger::default().hello() };
        let outcome = session.handle(ToServer::Hello(hello.clone()), Millis(0), 0);
        let answer = session.poll_transmit([None, None], Millis(0)).unwrap();
        match expect {
            Some(protocol) => {
                assert!(matches!(&answer, ToAgent::Welcome(w) if w.protocol == protocol), "{answer:?}");
                AgentSession::new(hello).handle(answer).unwrap();
            }
            None => {
                assert!(matches!(outcome, Err(Ended::Foreign(r)) if r.code == RefuseCode::Protocol));
                let outcome = AgentSession::new(hello).handle(answer);
                assert!(matches!(outcome, Err(Ended::Refused(r)) if r.message.contains("update the older")));
            }
        }
    };
    check((1, 1), (1, 1), Some(1));
    // A server one and two ahead of the agent, one that has left it behind, and an agent ahead.
    check((1, 2), (1, 1), Some(1));
    check((1, 3), (1, 1), Some(1));
    check((2, 4), (1, 1), None);
    check((1, 1), (1, 2), Some(1));
    check((1, 1), (2, 2), None);
}

#[test]
fn an_expired_certificate_may_renew_and_do_nothing_else() {
    let renewing = Hello { features: Features::RENEW, ..Ledger::default().hello() };
    let set = empty(3);
    let mut server = server_of(PROTOCOLS, Standing::Expired);
    let mut agent = AgentSession::new(renewing.clone());
    server.handle(ToServer::Hello(renewing.clone()), Millis(0), 0).unwrap();
    assert_eq!(server.poll_output(), None, "the node is not served");
    let answer = server.poll_transmit([Some(&set), Some(&set)], Millis(0)).unwrap();
    assert_eq!(answer, ToAgent::RenewFirst { protocol: PROTOCOLS.max });
    assert_eq!(server.poll_transmit([Some(&set), Some(&set)], Millis(0)), None, "nor told anything");
    agent.poll_output();
    agent.handle(answer).unwrap();
    assert_eq!(agent.poll_output(), Some(AgentOutput::RenewFirst));
    agent.renew(b"csr".to_vec());
    let Some(AgentOutput::Send(asked)) = agent.poll_output() else { panic!("asks") };
    server.handle(asked, Millis(0), 0).unwrap();
    assert_eq!(server.poll_output(), Some(ServerOutput::Renew { csr: b"csr".to_vec() }));
    let renewed = Renewed { certificate: vec![1], cas: vec![] };
    server.renewed(renewed.clone());
    agent.handle(server.poll_transmit([Some(&set), None], Millis(0)).unwrap()).unwrap();
    assert_eq!(agent.poll_output(), Some(AgentOutput::Renewed(renewed.clone())));
    assert_eq!(agent.renewed(), Err(Ended::Renewed), "it dials again");
    let more = server.handle(ToServer::Liveness { answering: true }, Millis(0), 0);
    assert!(matches!(more, Err(Ended::Violation(_))));
    // An agent that can not renew is told so; a certificate that nobody asked for is not taken.
    let mut server = server_of(PROTOCOLS, Standing::Expired);
    let outcome = server.handle(ToServer::Hello(Ledger::default().hello()), Millis(0), 0);
    assert!(matches!(outcome, Err(Ended::Foreign(r)) if r.code == RefuseCode::Expired));
    let mut agent = AgentSession::new(renewing);
    agent.handle(ToAgent::Welcome(welcome())).unwrap();
    assert!(matches!(agent.handle(ToAgent::Renewed(renewed)), Err(Ended::Violation(_))));
}

/// A whole session, both directions, as frames in hexadecimal: `<` to the agent, `>` to the server.
fn recorded_session() -> String {
    let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let (node, shared) = (DesiredSet::new(generation(7), compiled(&[("a", "1"), ("b", "2")])), empty(7));
    let mut ledger = Ledger::default();
    let mut pair = Pair::new(&ledger);
    let mut lines = Vec::new();
    let mut asked = false;
    loop {
        while pair.step_agent(&mut ledger) {}
        if pair.agent.may_renew() && !asked {
            asked = true;
            pair.agent.report(Report {
                pods: vec![pod("u1", Phase::Running)],
                events: vec![event("seen")],
                whole: true,
                ..Report::default()
            });
            pair.agent.liveness(false);
            pair.agent.renew(b"csr".to_vec());
            continue;
        }
        if let Some(bytes) = pair.to_server.pop_front() {
            lines.push(format!("> {}", hex(bytes.clone())));
            pair.server.handle(codec::decode_evolving(&bytes).unwrap(), pair.now, 5).unwrap();
            while let Some(output) = pair.server.poll_output() {
                match output {
                    ServerOutput::Report(report) => pair.server.reported(report.sequence),
                    ServerOutput::Renew { .. } => {
                        pair.server.renewed(Renewed { certificate: vec![1, 2], cas: vec![vec![3]] });
                    }
                    _ => {}
                }
            }
        } else if let Some(message) = pair.server.poll_transmit([Some(&node), Some(&shared)], pair.now) {
            let bytes = codec::encode(&message);
            lines.push(format!("< {}", hex(bytes.clone())));
            pair.agent.handle(codec::decode_evolving(&bytes).unwrap()).unwrap();
            while let Some(output) = pair.agent.poll_output() {
                match output {
                    AgentOutput::Renewed(_) => pair.agent.renewed().unwrap(),
                    AgentOutput::Send(message) => pair.to_server.push_back(codec::encode(&message)),
                    AgentOutput::Welcomed(_) => {}
                    AgentOutput::NeedIndex(set) => {
                        pair.agent.index(set, ledger.sets[set as usize].clone().into_iter().collect());
                    }
                    AgentOutput::Apply(apply) => {
                        let set = apply.set;
                        let digest = ledger.apply(apply).unwrap();
                        pair.agent.applied(set, digest);
                    }
                    AgentOutput::Reported(_) => {}
                    AgentOutput::RenewFirst => panic!("the certificate is valid"),
                }
            }
        } else {
            return lines.join("\n") + "\n";
        }
    }
}

/// What an agent of this release and its server say to each other: every later release understands
/// these bytes, and says the same where it speaks this protocol. A new protocol adds a file.
#[test]
fn the_sessions_bytes_are_as_recorded() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/session-v1.txt");
    let now = recorded_session();
    if std::env::var_os("CORACLE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    recorded.lines().zip(now.lines()).for_each(|(was, is)| assert_eq!(was, is));
    assert_eq!(recorded, now);
    // And each message is understood for what it was.
    for line in recorded.lines() {
        let (direction, hex) = line.split_once(' ').unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        match direction {
            ">" => assert!(!matches!(codec::decode_evolving::<ToServer>(&bytes).unwrap(), ToServer::Unknown(_))),
            _ => assert!(!matches!(codec::decode_evolving::<ToAgent>(&bytes).unwrap(), ToAgent::Unknown(_))),
        }
    }
}

#[test]
fn an_arm_from_a_newer_peer_is_passed_over() {
    let (mut server, mut agent) = (server(), AgentSession::new(Ledger::default().hello()));
    server.handle(ToServer::Hello(Ledger::default().hello()), Millis(0), 0).unwrap();
    agent.handle(ToAgent::Welcome(welcome())).unwrap();
    let newer = [codec::VERSION, 99, 1, 2, 3];
    server.handle(codec::decode_evolving(&newer).unwrap(), Millis(0), 0).unwrap();
    agent.handle(codec::decode_evolving(&newer).unwrap()).unwrap();
    assert!(matches!(server.handle(ToServer::Liveness { answering: true }, Millis(0), 0), Ok(())));
}

proptest! {
    #[test]
    fn cut_links_converge(script in proptest::collection::vec(any::<(u8, u8, u16)>(), 0..40)) {
        converges(script);
    }

    #[test]
    fn hostile_messages_never_panic(tags in proptest::collection::vec((0u8..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
        let set = empty(3);
        let (mut server, mut agent) = (server(), AgentSession::new(Ledger::default().hello()));
        server.handle(ToServer::Hello(Ledger::default().hello()), Millis(0), 0).unwrap();
        agent.handle(ToAgent::Welcome(welcome())).unwrap();
        for (tag, rest) in tags {
            let bytes: Vec<u8> = [codec::VERSION, tag].into_iter().chain(rest).collect();
            if let Ok(message) = codec::decode_evolving::<ToServer>(&bytes) {
                let _ = server.handle(message, Millis(0), 0);
            }
            if let Ok(message) = codec::decode_evolving::<ToAgent>(&bytes) {
                let _ = agent.handle(message);
            }
            let _ = server.poll_transmit([Some(&set), None], Millis(0));
            while agent.poll_output().is_some() {}
        }
    }
}
