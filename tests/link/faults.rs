//! Sessions through bad networks.

use coracle_agent::link::{Carrier, JoinError, LinkState};
use coracle_server::api::stream::{ContainerRef, ExecInput, ExecOutput, ExecRequest, LogRequest, NodeStreams};
use coracle_shared::contact::Contact;
use coracle_shared::desired::SetKind;
use coracle_shared::wire::RefuseCode;
use futures_lite::AsyncReadExt;
use serde_json::json;

use crate::firewall::{Firewall, Weather};
use crate::world::{Agent, World, pod, report};

fn is_over(over: Carrier) -> impl Fn(&LinkState) -> bool {
    move |state| matches!(state, LinkState::Connected { over: by, .. } if *by == over)
}

fn log_request() -> LogRequest {
    LogRequest { container: ContainerRef { container: "c".into(), ..Default::default() }, ..Default::default() }
}

async fn has_session(world: &World, node: &str) {
    let contacts = world.contacts();
    let mut seen = 0;
    while !matches!(contacts.contact(node), Contact::Connected { .. }) {
        seen = contacts.wait(seen).await;
    }
}

#[test]
fn where_udp_is_blocked_a_node_joins_and_works_over_tcp_and_returns_to_quic() {
    smol::block_on(async {
        let world = World::new();
        let firewall = Firewall::before(&world, Weather::Blocked).await;
        let line = firewall.token(&world, "abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        world.put("pods", "d", "web", pod("web", "u1", "n1"));
        agent.start();
        agent.wait_for(|l| l.has("pod/u1")).await;
        agent.reporter.pod(report("web", "u1"));
        world.wait("pods", "d", "web", |p| p["status"]["phase"] == "Running").await;
        assert!(is_over(Carrier::Tcp)(&agent.link_state()));

        let nodes = world.nodes();
        let mut text = String::new();
        nodes.open_logs("n1", log_request()).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text.lines().count(), 50_000);
        // A log that nobody reads on holds up neither commands nor the session.
        let mut held = nodes.open_logs("n1", log_request()).await.unwrap();
        held.read_exact(&mut [0; 100]).await.unwrap();
        let request = ExecRequest { command: vec!["cat".into()], stdin: true, ..Default::default() };
        let exec = nodes.open_exec("n1", request).await.unwrap();
        let big = vec![b'x'; 300_000];
        exec.input.send(ExecInput::Stdin(big.clone())).await.unwrap();
        exec.input.send(ExecInput::CloseStdin).await.unwrap();
        let mut echoed = Vec::new();
        while let ExecOutput::Stdout(bytes) = exec.output.recv().await.unwrap() {
            echoed.extend(bytes);
        }
        assert!(echoed == big);
        world.put("pods", "d", "later", pod("later", "u2", "n1"));
        agent.wait_for(|l| l.has("pod/u2")).await;

        firewall.set(Weather::Open);
        agent.wait_state(is_over(Carrier::Quic)).await;
        assert!(matches!(world.contacts().contact("n1"), Contact::Connected { .. }), "never away");
        world.put("pods", "d", "last", pod("last", "u3", "n1"));
        agent.wait_for(|l| l.has("pod/u3")).await;
    });
}

#[test]
fn refusals_are_as_clear_over_tcp() {
    smol::block_on(async {
        let world = World::new();
        let firewall = Firewall::before(&world, Weather::Blocked).await;
        let good = firewall.token(&world, "abcdef", json!({"coracle-uses": "1"}));
        let refused = async |line: &str, expect: RefuseCode| {
            let error = Agent::join(&world, &line.parse().unwrap(), "n2").await.err().expect("refused");
            assert!(matches!(&error, JoinError::Refused(refuse) if refuse.code == expect), "{error}");
        };
        refused(&good.to_string().replace("abcdef.0", "abcdef.1"), RefuseCode::Token).await;
        let expired = firewall.token(&world, "expire", json!({"expiration": "2020-01-01T00:00:00Z"}));
        refused(&expired.to_string(), RefuseCode::TokenExpired).await;
        let other = World::new();
        let beyond = Firewall::before(&other, Weather::Blocked).await;
        let foreign = good.to_string().replace(&firewall.address.to_string(), &beyond.address.to_string());
        let error = Agent::join(&other, &foreign.parse().unwrap(), "n2").await.err().expect("refused");
        assert!(matches!(error, JoinError::WrongCa { .. }), "{error}");
        // None of that spent the token.
        Agent::join(&world, &good, "n1").await.unwrap();
        refused(&good.to_string(), RefuseCode::TokenUsed).await;
        let many = firewall.token(&world, "manyyy", json!({}));
        let error = Agent::join(&world, &many, "n1").await.err().expect("taken");
        assert!(matches!(&error, JoinError::Refused(refuse) if refuse.code == RefuseCode::NameTaken), "{error}");
    });
}

#[test]
fn a_node_whose_address_changes_keeps_its_session_and_its_streams() {
    smol::block_on(async {
        let world = World::new();
        let firewall = Firewall::before(&world, Weather::Open).await;
        let line = firewall.token(&world, "abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        agent.start();
        has_session(&world, "n1").await;
        let contacts = world.contacts();
        let version = contacts.version();
        let mut logs = world.nodes().open_logs("n1", log_request()).await.unwrap();
        let mut text = vec![0; 10_000];
        logs.read_exact(&mut text).await.unwrap();
        firewall.forget();
        logs.read_to_end(&mut text).await.unwrap();
        assert_eq!(text.iter().filter(|b| **b == b'\n').count(), 50_000, "not a line is missing");
        firewall.forget();
        agent.reporter.liveness(false);
        world.wait("nodes", "", "n1", |n| n["status"]["conditions"][0]["reason"] == "AgentStuck").await;
        assert_eq!(contacts.version(), version + 1, "liveness, and no new session");
    });
}

#[test]
fn a_fifth_of_all_datagrams_lost_each_way_costs_time_and_nothing_else() {
    smol::block_on(async {
        let world = World::new();
        let firewall = Firewall::before(&world, Weather::Lossy(20)).await;
        let line = firewall.token(&world, "abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        for at in 0..50 {
            world.put("configmaps", "d", &format!("cm{at}"), json!({"data": {"k": "v".repeat(2000)}}));
            let mut object = pod(&format!("p{at}"), &format!("u{at}"), "n1");
            object["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] = format!("cm{at}").into();
            world.put("pods", "d", &format!("p{at}"), object);
        }
        agent.start();
        agent
            .wait_for(|l| (0..50).all(|at| l.has(&format!("pod/u{at}")) && l.has(&format!("configmap/d/cm{at}"))))
            .await;
        for at in 0..50 {
            agent.reporter.pod(report(&format!("p{at}"), &format!("u{at}")));
        }
        for at in 0..50 {
            world.wait("pods", "d", &format!("p{at}"), |p| p["status"]["phase"] == "Running").await;
        }
    });
}

#[test]
fn udp_that_is_blocked_within_a_session_is_noticed_and_tcp_takes_over() {
    smol::block_on(async {
        let world = World::new();
        let firewall = Firewall::before(&world, Weather::Open).await;
        let line = firewall.token(&world, "abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        agent.start();
        agent.wait_for(|l| l.revision(SetKind::Shared) > 0).await;
        firewall.set(Weather::Blocked);
        world.put("pods", "d", "web", pod("web", "u1", "n1"));
        // Forty seconds of silence, then TCP: what was to be done arrives.
        agent.wait_for(|l| l.has("pod/u1")).await;
        agent.wait_state(is_over(Carrier::Tcp)).await;
    });
}
