//! The real server's nodes room and the real agent's link over loopback, with a store and a ledger
//! in memory: joining, syncing, reporting, reconnecting, streams.

mod faults;
mod firewall;
mod lifetime;
mod world;

use coracle_agent::link::{JoinError, LinkState};
use coracle_server::api::stream::{
    ContainerRef, ExecInput, ExecOutput, ExecRequest, LogRequest, NodeStreams, StreamError,
};
use coracle_shared::codec::decode_body;
use coracle_shared::contact::Contact;
use coracle_shared::desired::{Body, ItemId, SetKind};
use coracle_shared::wire::RefuseCode;
use futures_lite::AsyncReadExt;
use serde_json::{Value, json};
use world::{Agent, World, pod, report};

#[test]
fn a_joined_agent_gets_its_pod_and_its_report_reaches_the_store() {
    smol::block_on(async {
        let world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        world.put("configmaps", "d", "cm", json!({"data": {"k": "v"}}));
        world.put("pods", "d", "web", pod("web", "u1", "n1"));
        world.put("pods", "d", "other", pod("other", "u2", "n2"));
        agent.start();
        let items = agent.wait_for(|ledger| ledger.has("pod/u1")).await;
        assert!(items.has("configmap/d/cm") && items.has("node") && !items.has("pod/u2"));
        let node = world.wait("nodes", "", "n1", |n| n["status"]["capacity"]["cpu"] == "2").await;
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
        assert_eq!(node["spec"]["podCIDR"], "10.42.0.0/24");
        let ready = &node["status"]["conditions"][0];
        assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));
        let config = agent.wait_for(|l| l.config().is_some_and(|c| c.pod_cidr.is_some())).await.config().unwrap();
        assert_eq!(config.pod_cidr.unwrap().to_string_for_test(), "10.42.0.0/24");

        agent.reporter.pod(report("web", "u1"));
        let pod = world.wait("pods", "d", "web", |p| p["status"]["phase"] == "Running").await;
        assert_eq!(pod["status"]["podIP"], "10.42.0.7");
        assert_eq!(pod["status"]["containerStatuses"][0]["ready"], true);

        // Another node's pod is not this agent's to report.
        agent.reporter.pod(report("other", "u2"));
        // A deleting pod goes when the agent says that nothing is left.
        let mut deleting = pod.clone();
        deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        deleting["metadata"]["deletionGracePeriodSeconds"] = 7.into();
        world.put("pods", "d", "web", deleting);
        let items = agent.wait_for(|l| l.pod("u1").is_some_and(|p| p.stop.is_some())).await;
        assert_eq!(items.pod("u1").unwrap().stop, Some(7));
        let mut gone = report("web", "u1");
        gone.gone = true;
        agent.reporter.pod(gone);
        agent.wait_for(|l| !l.has("pod/u1") && !l.has("configmap/d/cm")).await;
        assert!(world.get("pods", "d", "web").is_none());
        assert!(world.get("pods", "d", "other").unwrap()["status"].is_null());
    });
}

trait CidrText {
    fn to_string_for_test(&self) -> String;
}

impl CidrText for coracle_shared::desired::Cidr {
    fn to_string_for_test(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }
}

#[test]
fn a_reconnect_sends_and_writes_nothing() {
    smol::block_on(async {
        let mut world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        world.put("pods", "d", "web", pod("web", "u1", "n1"));
        world.put("services", "d", "s", json!({"spec": {"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}}));
        agent.start();
        agent.reporter.pod(report("web", "u1"));
        agent
            .wait_for(|l| l.has("pod/u1") && l.has("service/d/s") && l.config().is_some_and(|c| c.pod_cidr.is_some()))
            .await;
        world.wait("pods", "d", "web", |p| p["status"]["phase"] == "Running").await;
        // The Node object was the last that shaped either set.
        let last = world.revision_of("nodes", "", "n1");
        let is_whole = |l: &world::Held| l.revision(SetKind::Node) >= last && l.revision(SetKind::Shared) >= last;
        agent.wait_for(is_whole).await;
        let (applies, revision) = (agent.applies(), world.revision());

        world.restart().await;
        agent.wait_connected().await;
        // A change made now is the only thing that travels, and it shows that the session is synced.
        world.put("services", "d", "t", json!({"spec": {"clusterIP": "10.43.0.10", "ports": []}}));
        agent.wait_for(|l| l.has("service/d/t") && agent.applies() >= applies + 2).await;
        assert_eq!(world.revision() - revision, 1, "the agent's reports said nothing new");
        assert_eq!(agent.applies() - applies, 2, "one batch and the end of one set");
    });
}

#[test]
fn joins_that_are_refused_leave_nothing() {
    smol::block_on(async {
        let world = World::new();
        let check = async |line: &str, expect: RefuseCode| {
            let line = line.parse().unwrap();
            let error = Agent::join(&world, &line, "n1").await.err().expect("refused");
            assert!(matches!(&error, JoinError::Refused(refuse) if refuse.code == expect), "{error}");
            assert!(world.get("nodes", "", "n1").is_none() && world.get("-nodekey", "", "n1").is_none());
        };
        let good = world.token("abcdef", json!({})).to_string();
        check(&good.replace("abcdef.0", "abcdef.1"), RefuseCode::Token).await;
        check(&good.replace(":abcdef.", ":zzzzzz."), RefuseCode::Token).await;
        let expired = world.token("expire", json!({"expiration": "2020-01-01T00:00:00Z"})).to_string();
        check(&expired, RefuseCode::TokenExpired).await;
        let spent = world.token("spent0", json!({"coracle-uses": "0"})).to_string();
        check(&spent, RefuseCode::TokenUsed).await;

        // A server with another CA does not even get the token.
        let other = World::new();
        let foreign = good.replace(&world.address().to_string(), &other.address().to_string()).parse().unwrap();
        let error = Agent::join(&other, &foreign, "n1").await.err().expect("refused");
        assert!(matches!(error, JoinError::WrongCa { .. }), "{error}");
        // Nothing was spent: the token still works.
        Agent::join(&world, &good.parse().unwrap(), "n1").await.unwrap();
    });
}

#[test]
fn a_token_for_one_lets_one_in_and_a_name_has_one_key() {
    smol::block_on(async {
        let world = World::new();
        let once = world.token("abcdef", json!({"coracle-uses": "1"}));
        // Two race for it.
        let (a, b) = futures_lite::future::zip(Agent::join(&world, &once, "a"), Agent::join(&world, &once, "b")).await;
        let (winner, loser) = match (a, b) {
            (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, loser),
            (a, b) => panic!("{:?} {:?}", a.err(), b.err()),
        };
        assert!(matches!(&loser, JoinError::Refused(r) if r.code == RefuseCode::TokenUsed), "{loser}");
        // The winner asks again, as when the answer was lost: the same key, the same name.
        winner.forget_membership();
        let again = winner.join_again(&world, &once).await;
        assert!(again.is_ok(), "{:?}", again.err());

        let many = world.token("manyyy", json!({}));
        let taken = Agent::join(&world, &many, &winner.name).await.err().expect("taken");
        assert!(matches!(&taken, JoinError::Refused(r) if r.code == RefuseCode::NameTaken), "{taken}");
        // Once somebody has removed the node, another machine may have the name, and the old one not.
        world.delete("nodes", "", &winner.name);
        let next = Agent::join(&world, &many, &winner.name).await.unwrap();
        winner.start();
        let state = winner.wait_state(|s| matches!(s, LinkState::Refused { .. })).await;
        assert!(matches!(state, LinkState::Refused { reason } if reason.contains("another key")));
        next.start();
        next.wait_connected().await;
        for name in ["UPPER", "a..b", "-a", &"x".repeat(64)] {
            let error = Agent::join(&world, &many, name).await.err().expect("malformed");
            assert!(matches!(&error, JoinError::Refused(r) if r.code == RefuseCode::Malformed), "{error}");
        }
    });
}

#[test]
fn a_server_with_another_store_is_refused_and_what_is_held_stays() {
    smol::block_on(async {
        let mut world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        world.put("pods", "d", "web", pod("web", "u1", "n1"));
        agent.start();
        agent.wait_for(|l| l.has("pod/u1")).await;
        world.restart_with_another_store().await;
        let state = agent.wait_state(|s| matches!(s, LinkState::Refused { .. })).await;
        assert!(matches!(state, LinkState::Refused { reason } if reason.contains("store")));
        assert!(agent.held().has("pod/u1"));
    });
}

#[test]
fn contacts_follow_connections() {
    smol::block_on(async {
        let world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        let contacts = world.contacts();
        assert!(matches!(contacts.contact("n1"), Contact::Silent(_)));
        let running = agent.start();
        let wait = async |want: Contact| {
            let mut version = 0;
            loop {
                let now = contacts.contact("n1");
                if std::mem::discriminant(&now) == std::mem::discriminant(&want)
                    && (matches!(now, Contact::Silent(_)) || now == want)
                {
                    return;
                }
                version = contacts.wait(version).await;
            }
        };
        wait(Contact::Connected { answering: true }).await;
        world.wait("nodes", "", "n1", |n| n["status"]["conditions"][0]["status"] == "True").await;
        agent.reporter.liveness(false);
        wait(Contact::Connected { answering: false }).await;
        world.wait("nodes", "", "n1", |n| n["status"]["conditions"][0]["reason"] == "AgentStuck").await;
        agent.reporter.liveness(true);
        world.wait("nodes", "", "n1", |n| n["status"]["conditions"][0]["status"] == "True").await;
        running.cancel().await;
        agent.disconnect().await;
        wait(Contact::Silent(Default::default())).await;
    });
}

#[test]
fn logs_and_exec_pass_through_the_session() {
    smol::block_on(async {
        let world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        let nodes = world.nodes();
        let logs = |container: &str| LogRequest {
            container: ContainerRef { container: container.into(), ..Default::default() },
            tail_lines: Some(3),
            ..Default::default()
        };
        let away = nodes.open_logs("n1", logs("c")).await.err();
        assert_eq!(away, Some(StreamError::NodeAway { node: "n1".into() }));
        agent.start();
        agent.wait_connected().await;
        while world.nodes().open_logs("n1", logs("c")).await.is_err() {
            smol::future::yield_now().await;
        }
        let mut text = String::new();
        nodes.open_logs("n1", logs("c")).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text.lines().count(), 50_000, "tail {:?}", &text[..20]);
        let none = nodes.open_logs("n1", logs("none")).await.err();
        assert_eq!(none, Some(StreamError::NotFound("no container none".into())));

        let request = ExecRequest { command: vec!["cat".into()], stdin: true, stdout: true, ..Default::default() };
        let exec = nodes.open_exec("n1", request).await.unwrap();
        let big = vec![b'x'; 300_000];
        exec.input.send(ExecInput::Stdin(big.clone())).await.unwrap();
        exec.input.send(ExecInput::CloseStdin).await.unwrap();
        let mut echoed = Vec::new();
        let code = loop {
            match exec.output.recv().await.unwrap() {
                ExecOutput::Stdout(bytes) => echoed.extend(bytes),
                ExecOutput::Exit(code) => break code,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((echoed == big, code), (true, 3));
        // A client that goes ends the command.
        let exec =
            nodes.open_exec("n1", ExecRequest { command: vec!["cat".into()], ..Default::default() }).await.unwrap();
        drop(exec);
        agent.wait_commands_ended().await;
    });
}

#[test]
fn shared_items_reach_every_node_and_own_items_only_theirs() {
    smol::block_on(async {
        let world = World::new();
        let line = world.token("abcdef", json!({}));
        let (a, b) = (Agent::join(&world, &line, "a").await.unwrap(), Agent::join(&world, &line, "b").await.unwrap());
        a.start();
        b.start();
        world.put("secrets", "d", "s", json!({"data": {"k": "c2VjcmV0"}}));
        let mut with_secret = pod("web", "u1", "a");
        with_secret["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
        world.put("pods", "d", "web", with_secret);
        world.put(
            "services",
            "d",
            "s",
            json!({"spec": {"clusterIP": "10.43.0.9", "ports": [{"port": 80, "protocol": "TCP"}]}}),
        );
        world.put("endpointslices.discovery.k8s.io", "d", "s-1", slice("s", "10.42.0.7", true));
        let has_backend = |l: &world::Held| l.service("d", "s").is_some_and(|s| s.ports[0].backends.len() == 1);
        let (held_a, held_b) = (a.wait_for(has_backend).await, b.wait_for(has_backend).await);
        assert_eq!(held_a.body(SetKind::Shared, "service/d/s"), held_b.body(SetKind::Shared, "service/d/s"));
        a.wait_for(|l| l.has("secret/d/s")).await;
        assert!(!b.held().has("secret/d/s") && !b.held().has("pod/u1"));
        // The pod moves to nobody: the secret goes with it.
        world.delete("pods", "d", "web");
        a.wait_for(|l| !l.has("secret/d/s")).await;
        // A missing input keeps the last item.
        world.put("configmaps", "d", "cm", json!({"data": {"k": "v"}}));
        world.put("pods", "d", "w2", pod("w2", "u3", "b"));
        b.wait_for(|l| l.has("configmap/d/cm")).await;
        world.delete("configmaps", "d", "cm");
        world.put("services", "d", "later", json!({"spec": {"clusterIP": "10.43.0.8"}}));
        b.wait_for(|l| l.has("service/d/later")).await;
        assert!(b.held().has("configmap/d/cm"));
        let body = decode_body(&b.held().body(SetKind::Node, "pod/u3").unwrap()).unwrap();
        let Body::Pod(item) = body else { panic!() };
        let object: Value = serde_json::from_slice(&item.object).unwrap();
        assert!(object["status"].is_null() && object["metadata"]["resourceVersion"].is_null());
        assert_eq!(item.uid.0, "u3");
        assert!(b.held().get(SetKind::Node, &ItemId("pod/u3".into())).is_some());
    });
}

fn slice(service: &str, address: &str, ready: bool) -> Value {
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}],
    })
}
