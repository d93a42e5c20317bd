//! Certificates, clocks, tokens and revocation over a node's life.

use std::collections::BTreeSet;

use coracle_agent::identity::validity;
use coracle_agent::link::{JoinError, LinkState};
use coracle_server::api::stream::{NodeStreams, RevokeError, Revoked};
use coracle_shared::contact::{Contact, Contacts};
use coracle_shared::wire::{PROTOCOLS, ProtocolRange, RefuseCode};
use serde_json::json;

use crate::world::{Agent, World, pod};

/// Resolves when the node is connected, through whatever reconnects that takes.
async fn connected(contacts: &dyn Contacts, node: &str) {
    let mut seen = 0;
    while !matches!(contacts.contact(node), Contact::Connected { .. }) {
        seen = contacts.wait(seen).await;
    }
}

#[test]
fn an_expired_certificate_renews_and_then_the_node_is_served() {
    smol::block_on(async {
        let world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        let old = agent.membership();
        // A year and a half in a drawer.
        world.set_clock(550);
        world.put("pods", "d", "web", pod("web", "u1", "n1"));
        agent.start();
        agent.wait_for(|l| l.has("pod/u1")).await;
        let new = agent.membership();
        assert_ne!(old.certificate, new.certificate);
        let (before, after) = (validity(&old.certificate).unwrap(), validity(&new.certificate).unwrap());
        assert!(after.not_before > before.not_after, "the new one is of the new time");
        assert!(new.floor >= after.not_before, "and so is the clock's floor");
    });
}

#[test]
fn a_certificate_that_is_due_renews_within_the_session() {
    smol::block_on(async {
        let world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        let old = agent.membership().certificate;
        // Two thirds of a year.
        world.set_clock(250);
        agent.start();
        agent.wait_connected().await;
        while agent.membership().certificate == old {
            smol::Timer::after(std::time::Duration::from_millis(5)).await;
        }
        assert!(matches!(agent.link_state(), LinkState::Connected { .. }), "the session was not cut");
    });
}

#[test]
fn a_clock_that_jumps_either_way_expires_nothing_and_silences_nobody() {
    smol::block_on(async {
        let mut world = World::new();
        let line = world.token("abcdef", json!({"expiration": "2200-01-01T00:00:00Z"}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        agent.start();
        for (at, days) in [20_000, -15_000, 800, 0].into_iter().enumerate() {
            connected(&*world.contacts(), "n1").await;
            world.set_clock(days);
            assert!(matches!(world.contacts().contact("n1"), Contact::Connected { .. }), "{days}");
            // And whoever dials under the new time gets in, with what the old time gave it.
            world.restart().await;
            connected(&*world.contacts(), "n1").await;
            world.put("pods", "d", "web", pod("web", &format!("u{at}"), "n1"));
            agent.wait_for(|l| l.has(&format!("pod/u{at}"))).await;
        }
        // A machine that joins believes the line's CA, whatever either clock says.
        Agent::join(&world, &line, "n2").await.unwrap();
    });
}

#[test]
fn a_revoked_node_is_out_at_once_and_for_ever_and_comes_back_with_a_new_key() {
    smol::block_on(async {
        let mut world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        agent.start();
        connected(&*world.contacts(), "n1").await;
        assert_eq!(world.nodes().revoke("n2").await, Err(RevokeError::NoSuchNode));
        assert_eq!(world.nodes().revoke("n1").await, Ok(Revoked::Now));
        let state = agent.wait_state(|s| matches!(s, LinkState::Refused { .. })).await;
        assert!(matches!(&state, LinkState::Refused { reason } if reason.contains("revoked")), "{state:?}");
        assert!(matches!(world.contacts().contact("n1"), Contact::Silent(_)));
        let node = world.get("nodes", "", "n1").unwrap();
        assert_eq!(node["spec"]["unschedulable"], true);
        assert!(node["metadata"]["annotations"]["coracle.dev/revoked"].is_string());
        assert_eq!(world.nodes().revoke("n1").await, Ok(Revoked::Before));

        // Neither a restart nor the removal of the node nor a token lets that key in.
        world.restart().await;
        world.delete("nodes", "", "n1");
        agent.forget_membership();
        let error = agent.join_again(&world, &line).await.expect_err("refused");
        assert!(matches!(&error, JoinError::Refused(r) if r.code == RefuseCode::Revoked), "{error}");
        assert!(world.get("nodes", "", "n1").is_none());

        let agent = agent.join_anew(&line).await.unwrap();
        agent.start();
        connected(&*world.contacts(), "n1").await;
    });
}

#[test]
fn a_name_that_was_revoked_is_whole_again_once_another_key_has_it() {
    smol::block_on(async {
        let world = World::new();
        let line = world.token("abcdef", json!({}));
        let agent = Agent::join(&world, &line, "n1").await.unwrap();
        assert_eq!(world.nodes().revoke("n1").await, Ok(Revoked::Now));
        let agent = agent.join_anew(&line).await.unwrap();
        let node = world.get("nodes", "", "n1").unwrap();
        assert!(node["spec"]["unschedulable"].is_null());
        assert!(node["metadata"]["annotations"]["coracle.dev/revoked"].is_null());
        agent.start();
        connected(&*world.contacts(), "n1").await;
    });
}

#[test]
fn tokens_that_are_used_up_or_expired_are_deleted() {
    smol::block_on(async {
        let world = World::new();
        let once = world.token("abcdef", json!({"coracle-uses": "1"}));
        world.token("lasts0", json!({}));
        world.token("gone00", json!({"expiration": "2020-01-01T00:00:00Z"}));
        Agent::join(&world, &once, "n1").await.unwrap();
        let is_there = |id: &str| world.get("secrets", "kube-system", &format!("bootstrap-token-{id}")).is_some();
        let mut before = BTreeSet::new();
        world.nodes().sweep_tokens(&mut before).await;
        assert!(is_there("gone00"), "seen expired once: the clock may be wrong");
        world.nodes().sweep_tokens(&mut before).await;
        assert!(!is_there("gone00") && is_there("abcdef") && is_there("lasts0"));
        world.set_clock(1);
        world.nodes().sweep_tokens(&mut before).await;
        world.nodes().sweep_tokens(&mut before).await;
        assert!(!is_there("abcdef") && is_there("lasts0"));
    });
}

#[test]
fn a_server_and_an_agent_of_neighbouring_protocols_work_together_and_strangers_say_so() {
    smol::block_on(async {
        let mut world = World::new();
        let line = world.token("abcdef", json!({}));
        let mut agent = Agent::join(&world, &line, "n1").await.unwrap();
        let newest = PROTOCOLS.max;
        // A server one and two ahead, then an agent ahead.
        for (at, (server, own)) in
            [(newest + 1, newest), (newest + 2, newest), (newest, newest + 1)].into_iter().enumerate()
        {
            world.protocols = ProtocolRange { min: server.saturating_sub(2).max(1), max: server };
            world.restart().await;
            agent.speak(ProtocolRange { min: own.saturating_sub(2).max(1), max: own });
            let running = agent.start();
            let name = format!("u{at}");
            world.put("pods", "d", "web", pod("web", &name, "n1"));
            agent.wait_for(|l| l.has(&format!("pod/{name}"))).await;
            running.cancel().await;
        }
        world.protocols = ProtocolRange { min: newest + 1, max: newest + 3 };
        world.restart().await;
        agent.speak(PROTOCOLS);
        agent.start();
        let state = agent.wait_state(|s| matches!(s, LinkState::Refused { .. })).await;
        assert!(matches!(&state, LinkState::Refused { reason } if reason.contains("update the older")), "{state:?}");
    });
}
