//! Watches, logs and commands over real connections.

use std::io::{BufRead, BufReader, Read, Write};

use serde_json::{Value, json};

use crate::world::{Answer, Tls, World};

fn pod(world: &World, name: &str, node: Option<&str>) {
    let object = json!({"metadata": {"name": name}, "spec": {"nodeName": node,
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}});
    world.make("/api/v1/namespaces/default/pods", &object);
}

/// The next event of a watch over HTTP/1.1.
fn event(lines: &mut impl BufRead) -> Value {
    loop {
        let mut line = String::new();
        assert!(lines.read_line(&mut line).expect("a line") > 0, "the watch ended");
        if line.starts_with('{') {
            return serde_json::from_str(&line).expect("JSON");
        }
    }
}

#[test]
fn a_watch_sends_each_change_at_once() {
    let world = World::start();
    let mut stream = world.admin();
    let path = "/api/v1/namespaces/default/configmaps?watch=true&labelSelector=app";
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut lines = BufReader::new(stream);
    let maps = "/api/v1/namespaces/default/configmaps";
    world.make(maps, &json!({"metadata": {"name": "other"}}));
    world.make(maps, &json!({"metadata": {"name": "x", "labels": {"app": "1"}}}));
    let added = event(&mut lines);
    assert_eq!((&added["type"], &added["object"]["metadata"]["name"]), (&"ADDED".into(), &"x".into()));
    let patch = br#"{"metadata":{"labels":null}}"#;
    let answer = world.ask("PATCH", &format!("{maps}/x"), "application/merge-patch+json", patch);
    assert_eq!(answer.code, 200);
    let gone = event(&mut lines);
    assert_eq!(gone["type"], "DELETED", "it left the selection");
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], answer.json()["metadata"]["resourceVersion"]);
}

#[test]
fn a_delete_takes_only_the_object_that_was_meant() {
    let world = World::start();
    let maps = "/api/v1/namespaces/default/configmaps";
    world.make(maps, &json!({"metadata": {"name": "x"}}));
    let path = format!("{maps}/x");
    let uid = world.ask("GET", &path, "", b"").json()["metadata"]["uid"].clone();
    let delete = |uid: &Value| {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}});
        world.ask("DELETE", &path, "application/json", options.to_string().as_bytes())
    };
    let refused = delete(&"00000000-0000-4000-8000-000000000000".into()).refusal(409);
    assert!(refused.contains("UID"), "{refused}");
    assert_eq!(world.ask("GET", &path, "", b"").code, 200);
    assert_eq!(delete(&uid).code, 200);
    world.ask("GET", &path, "", b"").refusal(404);
}

#[test]
fn logs_are_text_of_the_container_asked_for() {
    let world = World::start();
    pod(&world, "p", Some("n1"));
    pod(&world, "away", Some("n2"));
    pod(&world, "unbound", None);
    let ask = |pod: &str, query: &str| {
        world.ask("GET", &format!("/api/v1/namespaces/default/pods/{pod}/log?{query}"), "", b"")
    };
    let answer = ask("p", "container=b&tailLines=5");
    assert_eq!((answer.code, answer.text().as_str()), (200, "log of b tail Some(5)\n"));
    assert!(ask("p", "").refusal(400).contains("choose one of: [a b]"));
    assert!(ask("away", "container=a").refusal(503).contains("n2"));
    assert!(ask("unbound", "container=a").refusal(400).contains("does not have a host assigned"));
    ask("none", "container=a").refusal(404);
}

/// Upgrades to a WebSocket and answers the connection after the head.
fn upgrade(world: &World, pod: &str, protocol: &str) -> (String, Tls) {
    let mut stream = world.admin();
    let path = format!("/api/v1/namespaces/default/pods/{pod}/exec?container=a&command=cat&stdin=true&stdout=true");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
    .expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    (String::from_utf8(head).expect("text").to_lowercase(), stream)
}

/// A short masked binary message, as clients send; the mask is all zeros.
fn send(stream: &mut Tls, message: &[u8]) {
    let length = u8::try_from(message.len()).expect("short");
    stream.write_all(&[&[0x82, 0x80 | length, 0, 0, 0, 0], message].concat()).expect("sent");
    stream.flush().expect("sent");
}

/// The next message; of a close, its opcode alone.
fn receive(stream: &mut Tls) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame");
    let mut length = usize::from(head[1]);
    if length == 126 {
        let mut long = [0; 2];
        stream.read_exact(&mut long).expect("a length");
        length = usize::from(u16::from_be_bytes(long));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).expect("a message");
    (head[0] & 0x0f, message)
}

#[test]
fn a_command_has_its_channels_and_its_exit_code() {
    let world = World::start();
    pod(&world, "p", Some("n1"));
    let (head, mut stream) = upgrade(&world, "p", "v5.channel.k8s.io");
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-protocol: v5.channel.k8s.io"), "{head}");
    assert_eq!(receive(&mut stream), (2, b"\x02cat".to_vec()));
    send(&mut stream, b"\x00hello");
    assert_eq!(receive(&mut stream), (2, b"\x01hello".to_vec()));
    send(&mut stream, &[255, 0]);
    let (_, ended) = receive(&mut stream);
    let status: Value = serde_json::from_slice(&ended[1..]).expect("JSON");
    assert_eq!((ended[0], &status["details"]["causes"][0]["message"]), (3, &"5".into()));
    assert_eq!(receive(&mut stream).0, 8, "then it closes");
}

#[test]
fn a_node_that_is_away_is_told_on_the_error_channel() {
    let world = World::start();
    pod(&world, "away", Some("n2"));
    let (head, mut stream) = upgrade(&world, "away", "v4.channel.k8s.io");
    assert!(head.starts_with("http/1.1 101"), "{head}");
    let (_, ended) = receive(&mut stream);
    assert_eq!(ended[0], 3);
    assert!(String::from_utf8_lossy(&ended).contains("n2"));
}

#[test]
fn spdy_is_told_what_to_do() {
    let world = World::start();
    pod(&world, "p", Some("n1"));
    let mut stream = world.admin();
    let path = "/api/v1/namespaces/default/pods/p/exec?container=a&command=ls&stdout=true";
    write!(stream, "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: SPDY/3.1\r\n\r\n")
        .expect("sent");
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    assert!(Answer::parse(&all).refusal(400).contains("kubectl 1.31 or later"));
}
