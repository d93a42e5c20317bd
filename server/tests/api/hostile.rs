//! Bad input: each a Status or a closed connection, and the server goes on.

use std::io::{Read, Write};
use std::time::Duration;

use coracle_server::api::http::Times;

use crate::world::{World, exchange, request};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const STRICT: &str = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
const JSON: &str = "application/json";

#[test]
fn malformed_bodies_are_refused_by_what_is_wrong() {
    let world = World::start();
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let cases: &[(&str, &str, &str, &str)] = &[
        (CONFIG_MAPS, JSON, "{\"a\":", "error decoding"),
        (CONFIG_MAPS, JSON, "", "empty"),
        (CONFIG_MAPS, JSON, "[]", "not an object"),
        (CONFIG_MAPS, JSON, &deep, "error decoding"),
        (CONFIG_MAPS, "application/yaml", "a: [", "YAML"),
        (CONFIG_MAPS, "application/vnd.kubernetes.protobuf", "k8s\0\u{1}", "error decoding"),
        (CONFIG_MAPS, JSON, r#"{"metadata":{"name":"x"},"data":{"a":1}}"#, "data"),
        (CONFIG_MAPS, JSON, r#"{"metadata":{"name":7}}"#, "metadata.name"),
        (STRICT, JSON, r#"{"metadata":{"name":"x"},"dada":{}}"#, "unknown field \"dada\""),
        (STRICT, JSON, r#"{"metadata":{"name":"x"},"data":{"a":"1","a":"2"}}"#, "duplicate field \"data.a\""),
        (CONFIG_MAPS, JSON, r#"{"kind":"Pod","metadata":{"name":"x"}}"#, "does not match the expected kind"),
        (CONFIG_MAPS, JSON, r#"{"metadata":{"name":"x","namespace":"other"}}"#, "does not match the namespace"),
    ];
    for (path, content_type, body, words) in cases {
        let message = world.ask("POST", path, content_type, body.as_bytes()).refusal(400);
        assert!(message.contains(words), "{body}: {message}");
    }
    let message = world.ask("POST", CONFIG_MAPS, JSON, br#"{"metadata":{"name":"A B"}}"#).refusal(422);
    assert!(message.contains("metadata.name"), "{message}");
    world.ask("POST", CONFIG_MAPS, "text/html", b"{}").refusal(415);
    assert_eq!(world.ask("GET", CONFIG_MAPS, JSON, b"").code, 200);
}

#[test]
fn unknown_and_duplicate_fields_are_warned_of_unless_strict() {
    let world = World::start();
    let body = br#"{"metadata":{"name":"x"},"dada":{},"data":{"a":"1","a":"2"}}"#;
    let answer = world.ask("POST", CONFIG_MAPS, JSON, body);
    assert_eq!(answer.code, 201);
    assert!(answer.head.contains("warning: 299 - \"unknown field \\\"dada\\\"\""), "{}", answer.head);
    assert!(answer.head.contains("duplicate field"), "{}", answer.head);
}

#[test]
fn bodies_are_bounded_whether_announced_or_not() {
    let world = World::start();
    let huge = vec![b' '; (3 << 20) + 1];
    world.ask("POST", CONFIG_MAPS, JSON, &huge).refusal(413);
    let mut chunked =
        format!("POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            .into_bytes();
    for _ in 0..64 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&vec![b' '; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    exchange(world.admin(), &chunked).refusal(413);
}

#[test]
fn heads_are_bounded() {
    let world = World::start();
    // More than the sockets hold: the answer comes while the client still writes, and must not be lost.
    let long = format!("GET /version HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(8 << 20));
    assert_eq!(exchange(world.admin(), long.as_bytes()).code, 431);
    let many: String = (0..500).map(|n| format!("X-{n}: 1\r\n")).collect();
    let many = format!("GET /version HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    assert_eq!(exchange(world.admin(), many.as_bytes()).code, 431);
}

#[test]
fn garbage_closes_the_connection() {
    let world = World::start();
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 512], &[0xff; 512], b"\x16\x03\x01\xff\xff"] {
        let mut socket = world.connect();
        socket.write_all(garbage).expect("sent");
        socket.shutdown(std::net::Shutdown::Write).expect("shut down");
        let mut rest = Vec::new();
        // An alert, a reset or nothing: but an end.
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.len() < 64, "{rest:?}");
    }
    let answer = exchange(world.admin(), b"\x00\x01\x02 nonsense\r\n\r\n");
    assert_eq!(answer.code, 400);
    assert_eq!(world.ask("GET", "/version", JSON, b"").code, 200);
}

#[test]
fn those_who_say_nothing_are_left() {
    let short = Duration::from_millis(200);
    let world = World::with_times(Times { handshake: short, head: short, idle: short * 2, stall: short });
    let mut mute = world.connect();
    assert_eq!(mute.read(&mut [0; 16]).expect("closed, not timed out"), 0, "no handshake");
    for start in [&b""[..], b"GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut half = world.admin();
        half.write_all(start).expect("sent");
        half.flush().expect("sent");
        let mut rest = Vec::new();
        let ended = half.read_to_end(&mut rest);
        let timed_out = ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "the connection stays open");
    }
    assert_eq!(world.ask("GET", "/version", JSON, b"").code, 200);
}

#[test]
fn nonsense_in_paths_and_parameters_is_refused() {
    let world = World::start();
    for (path, code) in [
        ("/api/v1/nothing", 404),
        ("/apis/none.io/v1", 404),
        ("/api/v1/namespaces/default/pods/x/none", 404),
        ("/api/v1/namespaces/default/configmaps/none", 404),
        ("/api/v1/pods?watch=perhaps", 400),
        ("/api/v1/pods?watch=true&resourceVersion=abc", 400),
        ("/api/v1/pods?watch=true&sendInitialEvents=true", 422),
        ("/api/v1/pods?labelSelector=%3D%3D", 400),
        ("/api/v1/pods?fieldSelector=spec.none%3Dx", 400),
        ("/api/v1/pods?limit=-1", 400),
        ("/api/v1/pods?continue=%00", 400),
        ("/api/v1/pods?watch=true&resourceVersion=99999999", 504),
    ] {
        world.ask("GET", path, JSON, b"").refusal(code);
    }
    world.ask("POST", "/api/v1/configmaps", JSON, b"{}").refusal(405);
    world.ask("PUT", CONFIG_MAPS, JSON, b"{}").refusal(405);
    world.ask("DELETE", "/version", JSON, b"").refusal(405);
    let apply = world.ask("PATCH", "/api/v1/namespaces/default/configmaps/x", "application/apply-patch+yaml", b"a: b");
    assert!(apply.refusal(400).contains("fieldManager is required"));
}

#[test]
fn nobody_sees_nothing() {
    let world = World::start();
    for path in ["/healthz", "/readyz", "/livez", "/version"] {
        assert_eq!(exchange(world.nobody(), &request("GET", path, JSON, b"")).code, 200, "{path}");
    }
    for path in ["/", "/api", "/apis", "/openapi/v2", "/nothing"] {
        let message = exchange(world.nobody(), &request("GET", path, JSON, b"")).refusal(403);
        assert_eq!(message, format!("forbidden: User \"system:anonymous\" cannot get path {path:?}"));
    }
    let message = exchange(world.nobody(), &request("GET", "/api/v1/namespaces/a/pods", JSON, b"")).refusal(403);
    let words = "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"a\"";
    assert_eq!(message, words);
}
