//! The node's network in throw-away network namespaces: real kernel, real packets. Needs root, `ip`,
//! `nft`, `nsenter` and `unshare`.

mod lab;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use lab::*;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 80);
const NODE_PORT: u16 = 30080;

/// The names of the servers that answer within a number of connections that makes it certain, for all
/// that matters, that each of three is met (three times (2/3)^80).
fn met(from: &Path, to: (Ipv4Addr, u16)) -> BTreeSet<String> {
    (0..80).map(|_| ask(from, to).expect("an answer").0).collect()
}

#[test]
fn pods_reach_pods_nodes_and_the_outside() {
    let lab = Lab::new(2);
    let [a, b] = ["a", "b"].map(|n| lab.nodes[0].attach(n));
    let c = lab.nodes[1].attach("c");
    let _servers = [
        Server::start(&b.netns, 80, "b"),
        Server::start(&c.netns, 80, "c"),
        Server::start(&lab.outside, 80, "outside"),
        Server::start(&lab.nodes[0].pin, 80, "node-1"),
    ];
    let pod = a.ip.to_string();
    let seen = |to| ask(&a.netns, (to, 80)).expect("an answer");
    assert_eq!(seen(b.ip), ("b".into(), pod.clone()), "same node");
    assert_eq!(seen(c.ip), ("c".into(), pod.clone()), "other node, without translation");
    assert_eq!(seen(lab.nodes[0].address()), ("node-1".into(), pod), "the own node");
    assert_eq!(seen(OUTSIDE), ("outside".into(), "172.30.0.1".into()), "outward as the node");
    let from_node = ask(&lab.nodes[0].pin, (c.ip, 80)).expect("an answer");
    assert_eq!(from_node, ("c".into(), "172.30.0.1".into()), "from the node to a pod elsewhere");
    lab.finish();
}

#[test]
fn a_foreign_firewall_is_found_until_it_lets_pods_by() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let nft = |script: &str| sh(&inside(&node.pin, &format!("nft '{script}'")));
    let found = || {
        let (drops, pods) = node.run(|n| n.foreign_drops().expect("the rules are read"));
        assert_eq!(pods, Some(cidr("10.42.0.0/16")));
        drops.into_iter().map(|d| (d.chain, d.by_policy)).collect::<Vec<_>>()
    };
    assert_eq!(found(), []);
    // As Docker and ufw have it: a policy, and rules about other things.
    nft("add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }");
    nft("add chain ip filter DOCKER-USER; add rule ip filter FORWARD jump DOCKER-USER");
    nft("add rule ip filter FORWARD ip saddr 172.17.0.0/16 accept");
    let a = node.attach("a");
    let b = node.attach("b");
    let _server = Server::start(&b.netns, 80, "b");
    assert!(ask(&a.netns, (b.ip, 80)).is_err(), "it does drop");
    assert_eq!(found(), [("ip filter FORWARD".to_owned(), true)]);
    // The mend that the condition names.
    nft(
        "insert rule ip filter FORWARD ip saddr 10.42.0.0/16 accept; insert rule ip filter FORWARD ip daddr 10.42.0.0/16 accept",
    );
    assert_eq!(found(), []);
    assert_eq!(ask(&a.netns, (b.ip, 80)).expect("an answer").0, "b");
    nft("delete table ip filter");
    // As firewalld has it: the policy accepts, and the last rule refuses what is left.
    nft(
        "add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }",
    );
    nft("add rule inet firewalld filter_FORWARD ct state established,related accept");
    assert_eq!(found(), []);
    nft("add rule inet firewalld filter_FORWARD reject with icmpx type admin-prohibited");
    assert_eq!(found(), [("inet firewalld filter_FORWARD".to_owned(), false)]);
    nft("insert rule inet firewalld filter_FORWARD iifname \"cv*\" accept");
    assert_eq!(found(), []);
    nft("delete table inet firewalld");
    lab.finish();
}

#[test]
fn services_spread_over_ready_pods_on_all_nodes() {
    let lab = Lab::new(2);
    let a = lab.nodes[0].attach("a");
    let b = lab.nodes[0].attach("b");
    let c = lab.nodes[1].attach("c");
    let _servers = [("a", &a), ("b", &b), ("c", &c)].map(|(name, pod)| Server::start(&pod.netns, 8080, name));
    let backends = [&a, &b, &c].map(|p| backend(p.ip, 8080)).to_vec();
    lab.serve(&[service("web", VIP, Some(NODE_PORT), backends.clone())]);

    let all: BTreeSet<String> = ["a", "b", "c"].map(String::from).into();
    assert_eq!(met(&a.netns, (VIP, 80)), all, "from a pod, itself included");
    assert_eq!(met(&c.netns, (VIP, 80)), all, "from a pod on the other node");
    assert_eq!(met(&lab.nodes[0].pin, (VIP, 80)), all, "from a node");
    for node in &lab.nodes {
        assert_eq!(met(&lab.outside, (node.address(), NODE_PORT)), all, "from outside to the NodePort");
        assert_eq!(met(&c.netns, (node.address(), NODE_PORT)), all, "from a pod to the NodePort");
    }
    assert_eq!(met(&lab.nodes[0].pin, (lab.nodes[0].address(), NODE_PORT)), all, "from a node to its own NodePort");

    lab.serve(&[service("web", VIP, Some(NODE_PORT), backends[1..].to_vec())]);
    let rest: BTreeSet<String> = ["b", "c"].map(String::from).into();
    assert_eq!(met(&a.netns, (VIP, 80)), rest, "after a backend is gone");
    assert_eq!(met(&lab.outside, (lab.nodes[1].address(), NODE_PORT)), rest);
    lab.finish();
}

#[test]
fn clients_are_seen_as_they_are_where_that_is_possible() {
    let lab = Lab::new(2);
    let a = lab.nodes[0].attach("a");
    let c = lab.nodes[1].attach("c");
    let _servers = [Server::start(&a.netns, 8080, "a"), Server::start(&c.netns, 8080, "c")];
    let only = |pod: &coracle_agent::network::Attachment| {
        lab.serve(&[service("web", VIP, Some(NODE_PORT), vec![backend(pod.ip, 8080)])]);
    };
    let seen = |from: &Path, to| ask(from, to).expect("an answer").1;
    let [one, two] = [0, 1].map(|i| lab.nodes[i].address());

    only(&c);
    assert_eq!(seen(&a.netns, (VIP, 80)), a.ip.to_string(), "pod to a pod elsewhere");
    assert_eq!(seen(&lab.outside, (two, NODE_PORT)), OUTSIDE.to_string(), "outside to the pod's own node");
    assert_eq!(seen(&lab.outside, (one, NODE_PORT)), one.to_string(), "outside through another node");
    only(&a);
    assert_ne!(seen(&a.netns, (VIP, 80)), a.ip.to_string(), "hairpin: not as itself");
    lab.finish();
}

#[test]
fn a_service_without_backends_refuses_at_once() {
    let lab = Lab::new(1);
    let a = lab.nodes[0].attach("a");
    lab.serve(&[service("web", VIP, Some(NODE_PORT), vec![])]);
    let node = lab.nodes[0].address();
    for (from, to) in [
        (&a.netns, (VIP, 80)),
        (&a.netns, (VIP, 81)),
        (&lab.nodes[0].pin, (VIP, 80)),
        (&a.netns, (node, NODE_PORT)),
        (&lab.outside, (node, NODE_PORT)),
    ] {
        let refused = ask(from, to).expect_err("nobody there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{from:?} {to:?}");
    }
    lab.finish();
}

#[test]
fn the_same_client_stays_with_its_backend_if_asked() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let pods = ["a", "b", "c"].map(|n| (n, node.attach(n)));
    let _servers = pods.clone().map(|(name, pod)| Server::start(&pod.netns, 8080, name));
    let mut web = service("web", VIP, Some(NODE_PORT), pods.iter().map(|(_, p)| backend(p.ip, 8080)).collect());
    web.affinity = Some(10800);
    lab.serve(&[web]);
    for (_, pod) in &pods {
        assert_eq!(met(&pod.netns, (VIP, 80)).len(), 1);
    }
    assert_eq!(met(&lab.outside, (node.address(), NODE_PORT)).len(), 1);
    lab.finish();
}

/// A datagram under a false source never arrives: the next one, sent honestly, is the first received.
#[test]
fn a_false_source_is_dropped() {
    let lab = Lab::new(1);
    let [a, b, c] = ["a", "b", "c"].map(|n| lab.nodes[0].attach(n));
    let receiver = enter_bind(&b.netns, b.ip, 53);
    for (case, false_source) in
        [("another pod's", c.ip), ("the node's", lab.nodes[0].address()), ("free", "10.42.1.99".parse().unwrap())]
    {
        sh(&inside(&a.netns, &format!("ip addr add {false_source}/32 dev eth0")));
        for (source, text) in [(false_source, "false"), (a.ip, "honest")] {
            enter_bind(&a.netns, source, 0).send_to(text.as_bytes(), (b.ip, 53)).ok();
        }
        sh(&inside(&a.netns, &format!("ip addr del {false_source}/32 dev eth0")));
        let mut buffer = [0; 16];
        let (length, from) = receiver.recv_from(&mut buffer).expect("the honest one");
        assert_eq!((&buffer[..length], from.ip()), (&b"honest"[..], a.ip.into()), "{case}");
    }
    lab.finish();
}

fn enter_bind(pin: &Path, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = coracle_agent::network::enter(pin, || UdpSocket::bind((address, port))).unwrap().expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

#[test]
fn a_restart_finds_everything_and_breaks_nothing() {
    let mut lab = Lab::new(1);
    let [a, b] = ["a", "b"].map(|n| lab.nodes[0].attach(n));
    let listener = coracle_agent::network::enter(&b.netns, || std::net::TcpListener::bind(("0.0.0.0", 8080)));
    let listener = listener.unwrap().unwrap();
    let web = |backends| service("web", VIP, None, backends);
    lab.serve(&[web(vec![backend(b.ip, 8080)])]);
    let mut client = connect(&a.netns, (VIP, 80)).expect("connected");
    let (mut served, _) = listener.accept().unwrap();
    let mut echo = |text: &[u8]| {
        client.write_all(text).unwrap();
        let mut got = vec![0; text.len()];
        served.read_exact(&mut got).unwrap();
        assert_eq!(got, text);
    };
    echo(b"before");
    let before = lab.nodes[0].table();

    lab.nodes[0].restart();
    let node = &lab.nodes[0];
    let again = [("a", &a), ("b", &b)].map(|(n, at)| (uid(n), at.clone()));
    assert_eq!(node.run(|n| n.attachments()), again.into());
    node.run(|n| n.configure(&node.config()).expect("configured"));
    assert_eq!(node.table(), before, "services stay until the agent knows better");
    echo(b"restarted");
    assert_eq!(node.attach("a"), a);
    lab.serve(&[web(vec![backend(b.ip, 8080)])]);
    assert_eq!(node.table(), before, "the same services, the same table");
    echo(b"reloaded");
    lab.serve(&[web(vec![backend(a.ip, 8080)])]);
    echo(b"a connection under way outlives its backend's removal");
    lab.finish();
}

#[test]
fn attach_and_detach_are_idempotent_and_addresses_come_back() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let first = node.attach("a");
    assert_eq!(node.attach("a"), first);
    let others: BTreeSet<_> = (0..20).map(|i| node.attach(&format!("pod-{i}")).ip).collect();
    assert_eq!(others.len(), 20);
    assert!(!others.contains(&first.ip));
    for _ in 0..2 {
        node.run(|n| n.detach(&uid("a")).expect("detached"));
    }
    assert!(!first.netns.exists());
    assert!(!node.run(|n| n.attachments()).contains_key(&uid("a")));
    node.run(|n| {
        for bad in ["", ".", "..", "a/b", ".stock-10.42.1.9"] {
            n.attach(&uid(bad)).expect_err("no UID");
        }
    });
    lab.finish();
}

#[test]
fn a_network_that_lost_its_link_is_made_anew() {
    let lab = Lab::new(1);
    let node = &lab.nodes[0];
    let first = node.attach("a");
    sh(&inside(&node.pin, "for l in $(ip -o link | grep -o \"cv[0-9a-f]*\"); do ip link del $l; done"));
    let second = node.attach("a");
    let b = node.attach("b");
    let _server = Server::start(&b.netns, 80, "b");
    assert_eq!(ask(&second.netns, (b.ip, 80)).expect("an answer").0, "b");
    assert_eq!(first.netns, second.netns);
    lab.finish();
}

#[test]
fn routes_follow_the_nodes() {
    let lab = Lab::new(2);
    let node = &lab.nodes[0];
    let routes = || sh(&inside(&node.pin, "ip route | grep via || true"));
    assert_eq!(routes().trim(), "10.42.2.0/24 via 172.30.0.2 dev eth0 proto 200");
    let far = coracle_shared::desired::RouteItem {
        node: "far".into(),
        pod_cidr: cidr("10.42.9.0/24"),
        via: Ipv4Addr::new(192, 0, 2, 1),
    };
    let error = node.run(|n| n.set_routes(&[far])).expect_err("not on this subnet");
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    assert_eq!(routes(), "", "a node that is gone has no route");
    lab.finish();
}

#[test]
fn nft_reads_the_table() {
    let lab = Lab::new(1);
    let backends = |n: u8| (1..=n).map(|i| backend(Ipv4Addr::new(10, 42, 7, i), 8080)).collect();
    lab.serve(&[service("web", VIP, Some(NODE_PORT), backends(2))]);
    let listed = |text: &str| assert!(lab.nodes[0].table().contains(text), "{text}\n{}", lab.nodes[0].table());
    listed("elements = { 10.43.0.80 . tcp . 80 : goto service-2 }");
    listed("elements = { tcp . 30080 : goto nodeport-2 }");
    listed("iifname \"cv*\" fib saddr . iif oif missing drop");
    lab.serve(&[service("web", VIP, None, backends(3))]);
    listed("elements = { 10.43.0.80 . tcp . 80 : goto service-3 }");
    assert!(!lab.nodes[0].table().contains("nodeport-2"));
    // Somebody flushes the table: the next change makes it whole again.
    sh(&inside(&lab.nodes[0].pin, "nft flush ruleset"));
    lab.serve(&[service("web", VIP, None, backends(1))]);
    listed("elements = { 10.43.0.80 . tcp . 80 : goto service-1 }");
    listed("masquerade");
    lab.finish();
}

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

#[test]
fn names_are_answered_on_the_node_and_outlive_the_agent() {
    let mut lab = Lab::new(1);
    let a = lab.nodes[0].attach("a");
    lab.serve(&[service("web", VIP, None, vec![])]);
    let web = "web.default.svc.cluster.local";
    let node = lab.nodes[0].pin.clone();
    for from in [&a.netns, &node] {
        assert_eq!(resolve(from, web), (0, Some(VIP)));
        assert_eq!(resolve_tcp(from, web), (0, Some(VIP)));
        assert_eq!(resolve(from, "db.default.svc.cluster.local"), (NXDOMAIN, None));
    }
    let pid_file = lab.nodes[0].runtime.join("dns.pid");
    let pid = || std::fs::read_to_string(&pid_file).expect("dns.pid");
    let first = pid();
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).expect("running");
    for line in ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Threads:\t1"] {
        assert!(status.contains(line), "{line}\n{status}");
    }

    lab.nodes[0].restart();
    assert_eq!(resolve(&a.netns, web), (0, Some(VIP)), "without an agent");
    lab.nodes[0].run(|n| n.configure(&lab.nodes[0].config()).expect("configured"));
    lab.serve(&[service("db", VIP, None, vec![])]);
    assert_eq!(pid(), first, "the process is the same");
    assert_eq!(resolve(&a.netns, web), (NXDOMAIN, None));
    assert_eq!(resolve(&a.netns, "db.default.svc.cluster.local"), (0, Some(VIP)));

    sh(&format!("kill -9 {first}"));
    // Its end is noticed; the next process knows the names before it answers.
    while pid() == first {
        std::thread::yield_now();
    }
    assert_eq!(
        lab.nodes[0].network.wait_for_names(Duration::from_secs(10)),
        coracle_agent::network::NamesState::Serving
    );
    assert_eq!(resolve(&a.netns, "db.default.svc.cluster.local"), (0, Some(VIP)));
    lab.finish();
}

#[test]
fn other_names_are_asked_of_the_nodes_resolver() {
    let lab = Lab::new(1);
    let a = lab.nodes[0].attach("a");
    let mut out = service("out", VIP, None, vec![]);
    (out.cluster_ip, out.external_name) = (None, Some("example.org".into()));
    lab.serve(&[out]);
    {
        let _upstream = Upstream::start(&lab);
        let address = |last| (0, Some(Ipv4Addr::new(192, 0, 2, last)));
        assert_eq!(resolve(&a.netns, "example.org"), address(7), "not the one under a wrong id");
        assert_eq!(resolve_tcp(&a.netns, "example.org"), address(9));
        assert_eq!(resolve(&a.netns, "out.default.svc.cluster.local"), address(7), "an alias to the end");
    }
    assert_eq!(resolve(&a.netns, "example.org"), (SERVFAIL, None), "nobody there");
    assert_eq!(resolve(&a.netns, "nobody.default.svc.cluster.local"), (NXDOMAIN, None));
    lab.finish();
}

#[test]
fn a_udp_client_leaves_a_backend_that_is_gone() {
    let lab = Lab::new(1);
    let [a, b, c] = ["a", "b", "c"].map(|n| lab.nodes[0].attach(n));
    let _servers = [UdpServer::start(&b.netns, 8080, "b"), UdpServer::start(&c.netns, 8080, "c")];
    let serve = |pods: &[&coracle_agent::network::Attachment]| {
        let mut echo = service("echo", VIP, Some(NODE_PORT), pods.iter().map(|p| backend(p.ip, 8080)).collect());
        echo.ports[0].protocol = coracle_shared::desired::Protocol::Udp;
        lab.serve(&[echo]);
    };
    let from_pod = enter_bind(&a.netns, a.ip, 4000);
    let from_outside = enter_bind(&lab.outside, OUTSIDE, 4000);
    let clients = [(&from_pod, (VIP, 80)), (&from_outside, (lab.nodes[0].address(), NODE_PORT))];
    for (pods, name) in [([&b], "b"), ([&c], "c"), ([&b], "b")] {
        serve(&pods);
        for (client, to) in clients {
            for _ in 0..3 {
                let mut buffer = [0; 16];
                client.send_to(b"hello", to).expect("sent");
                let (length, from) = client.recv_from(&mut buffer).expect("an answer");
                assert_eq!((&buffer[..length], from), (name.as_bytes(), to.into()));
            }
        }
    }
    lab.finish();
}

#[test]
fn an_agent_that_was_never_configured_can_still_clear_up() {
    let mut lab = Lab::new(1);
    lab.nodes[0].attach("a");
    lab.serve(&[service("web", VIP, Some(NODE_PORT), vec![backend(Ipv4Addr::new(10, 42, 1, 2), 80)])]);
    lab.nodes[0].restart();
    lab.finish();
}
