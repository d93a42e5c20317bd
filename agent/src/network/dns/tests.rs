use std::net::Ipv4Addr;

use coracle_shared::desired::{Backend, Cidr, Protocol, ServiceItem, ServicePort};
use proptest::prelude::*;

use super::answer::{Forward, Outcome, Transport, respond};
use super::resolv;
use super::wire::{Answer, Name, Query, Reply, kind};
use super::zone::{Source, Zone};

fn backend(last: u8, hostname: Option<&str>) -> Backend {
    let address = Ipv4Addr::new(10, 42, 1, last);
    Backend { address, port: 9000 + u16::from(last), hostname: hostname.map(Into::into), ready: true }
}

fn service(name: &str, ip: Option<[u8; 4]>, backends: Vec<Backend>) -> ServiceItem {
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None, backends };
    ServiceItem {
        namespace: "ns".into(),
        name: name.into(),
        cluster_ip: ip.map(Into::into),
        external_name: None,
        affinity: None,
        ports: vec![port],
    }
}

fn alias(name: &str, to: &str) -> ServiceItem {
    ServiceItem { external_name: Some(to.into()), ports: Vec::new(), ..service(name, None, Vec::new()) }
}

fn zone() -> Zone {
    let many = (1..=200).map(|i| backend(i, None)).collect();
    let services = [
        service("web", Some([10, 43, 0, 80]), vec![backend(2, None)]),
        service("db", None, vec![backend(3, Some("db-0")), backend(4, None)]),
        service("many", None, many),
        alias("out", "example.org"),
        alias("in", "web.ns.svc.cluster.local"),
        alias("ring", "ring2.ns.svc.cluster.local"),
        alias("ring2", "ring.ns.svc.cluster.local"),
    ];
    let networks = vec![Cidr { address: Ipv4Addr::new(10, 43, 0, 0), prefix: 16 }];
    Zone::new(&Source::new("cluster.local", networks, &services)).expect("a domain")
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    Query::write(0, &Name::parse(name).expect("a name"), kind)
}

/// A name of a message as text, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> (String, usize) {
    let (mut text, mut end) = (String::new(), None);
    loop {
        let length = usize::from(message[at]);
        if length >= 0xc0 {
            end.get_or_insert(at + 2);
            at = (length & 0x3f) << 8 | usize::from(message[at + 1]);
        } else if length == 0 {
            return (text, end.unwrap_or(at + 1));
        } else {
            text += &format!("{}.", String::from_utf8_lossy(&message[at + 1..=at + length]));
            at += length + 1;
        }
    }
}

/// `CODE [flags] answers… | authority types`, each answer as in a zone file without times.
fn text(message: &[u8]) -> String {
    let word = |at: usize| usize::from(message[at]) << 8 | usize::from(message[at + 1]);
    let mut out = ["ok", "bad", "fail", "none", "unknown", "refused"][usize::from(message[3] & 15)].to_owned();
    if message[2] & 2 != 0 {
        out += " cut";
    }
    let mut at = name_at(message, 12).1 + 4;
    for index in 0..word(6) + word(8) {
        let (owner, after) = name_at(message, at);
        let (kind, length, data) = (word(after) as u16, word(after + 8), after + 10);
        let rendered = match kind {
            kind::A => format!("A {}.{}.{}.{}", message[data], message[data + 1], message[data + 2], message[data + 3]),
            kind::CNAME => format!("CNAME {}", name_at(message, data).0),
            kind::PTR => format!("PTR {}", name_at(message, data).0),
            kind::SRV => format!("SRV {} {}", word(data + 4), name_at(message, data + 6).0),
            kind::TXT => format!("TXT {}", String::from_utf8_lossy(&message[data + 1..data + length])),
            kind::SOA => "SOA".into(),
            other => other.to_string(),
        };
        let section = if index < word(6) { "" } else { "| " };
        out += &format!(" {section}{owner} {rendered}");
        at = data + length;
    }
    out
}

#[test]
fn names_are_answered_as_kubernetes_specifies() {
    let zone = zone();
    let check = |name: &str, kind: u16, expected: &str| {
        let answer = match respond(&zone, &question(name, kind), Transport::Udp) {
            Outcome::Reply(message) => text(&message),
            Outcome::Forward(_) => "elsewhere".into(),
            Outcome::Ignore => "ignored".into(),
        };
        assert_eq!(answer, expected, "{name} {kind}");
    };
    let web = "web.ns.svc.cluster.local";
    check(web, kind::A, "ok web.ns.svc.cluster.local. A 10.43.0.80");
    check("WEB.ns.SVC.cluster.LOCAL", kind::A, "ok web.ns.svc.cluster.local. A 10.43.0.80");
    check(web, kind::AAAA, "ok | cluster.local. SOA");
    check(web, kind::TXT, "ok | cluster.local. SOA");
    check("nobody.ns.svc.cluster.local", kind::A, "none | cluster.local. SOA");
    check("nobody.ns.svc.cluster.local", kind::AAAA, "none | cluster.local. SOA");
    check("ns.svc.cluster.local", kind::A, "ok | cluster.local. SOA");
    check("svc.cluster.local", kind::A, "ok | cluster.local. SOA");
    check("other.svc.cluster.local", kind::A, "none | cluster.local. SOA");
    check("cluster.local", kind::SOA, "ok cluster.local. SOA");
    check("example.org.ns.svc.cluster.local", kind::A, "none | cluster.local. SOA");
    check("dns-version.cluster.local", kind::TXT, "ok dns-version.cluster.local. TXT 1.1.0");

    let srv = "_http._tcp.web.ns.svc.cluster.local";
    check(srv, kind::SRV, &format!("ok {srv}. SRV 80 {web}."));
    check("_tcp.web.ns.svc.cluster.local", kind::SRV, "ok | cluster.local. SOA");
    check("_http._udp.web.ns.svc.cluster.local", kind::SRV, "none | cluster.local. SOA");

    let db = "db.ns.svc.cluster.local";
    check(db, kind::A, &format!("ok {db}. A 10.42.1.3 {db}. A 10.42.1.4"));
    check(&format!("db-0.{db}"), kind::A, &format!("ok db-0.{db}. A 10.42.1.3"));
    check(&format!("10-42-1-4.{db}"), kind::A, &format!("ok 10-42-1-4.{db}. A 10.42.1.4"));
    let srv = format!("_http._tcp.{db}");
    check(&srv, kind::SRV, &format!("ok {srv}. SRV 9003 db-0.{db}. {srv}. SRV 9004 10-42-1-4.{db}."));

    check("80.0.43.10.in-addr.arpa", kind::PTR, &format!("ok 80.0.43.10.in-addr.arpa. PTR {web}."));
    check("3.1.42.10.in-addr.arpa", kind::PTR, &format!("ok 3.1.42.10.in-addr.arpa. PTR db-0.{db}."));
    check("81.0.43.10.in-addr.arpa", kind::PTR, "none | cluster.local. SOA");
    check("1.0.0.127.in-addr.arpa", kind::PTR, "elsewhere");
    check("x.0.43.10.in-addr.arpa", kind::PTR, "elsewhere");

    let inward = "in.ns.svc.cluster.local";
    check(inward, kind::A, &format!("ok {inward}. CNAME {web}. {web}. A 10.43.0.80"));
    check(inward, kind::CNAME, &format!("ok {inward}. CNAME {web}."));
    check("out.ns.svc.cluster.local", kind::A, "elsewhere");
    check("out.ns.svc.cluster.local", kind::CNAME, "ok out.ns.svc.cluster.local. CNAME example.org.");
    check("example.org", kind::A, "elsewhere");
    check("xcluster.local", kind::A, "elsewhere");
}

#[test]
fn services_that_name_each_other_come_to_an_end() {
    let Outcome::Reply(message) = respond(&zone(), &question("ring.ns.svc.cluster.local", kind::A), Transport::Udp)
    else {
        panic!("an answer")
    };
    assert!(text(&message).starts_with("ok ring.ns.svc.cluster.local. CNAME"));
}

#[test]
fn what_does_not_fit_is_cut_and_whole_over_tcp() {
    let many = question("many.ns.svc.cluster.local", kind::A);
    let answers = |transport| match respond(&zone(), &many, transport) {
        Outcome::Reply(message) => (message.len(), text(&message)),
        other => panic!("{other:?}"),
    };
    let (length, cut) = answers(Transport::Udp);
    assert!(length <= 1232 && cut.starts_with("ok cut "), "{length} {cut}");
    let (_, whole) = answers(Transport::Tcp);
    assert_eq!(whole.matches(" A ").count(), 200);

    // Without EDNS there is room for 512 bytes.
    let mut classic = many.clone();
    classic.truncate(classic.len() - 11);
    classic[11] = 0;
    let Outcome::Reply(message) = respond(&zone(), &classic, Transport::Udp) else { panic!("an answer") };
    assert!(message.len() <= 512);
}

#[test]
fn answers_take_turns() {
    let first = |id: u16| {
        let mut message = question("db.ns.svc.cluster.local", kind::A);
        message[..2].copy_from_slice(&id.to_be_bytes());
        match respond(&zone(), &message, Transport::Udp) {
            Outcome::Reply(message) => text(&message).split(" A ").nth(1).map(str::to_owned),
            other => panic!("{other:?}"),
        }
    };
    assert_ne!(first(0), first(1));
}

fn forwarded(message: &[u8], transport: Transport) -> Box<Forward> {
    match respond(&zone(), message, transport) {
        Outcome::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

/// Another server's answer to a request: one address for whatever was asked.
fn answer_to(request: &[u8]) -> Vec<u8> {
    let query = Query::parse(request).expect("a query");
    let data = super::wire::Data::A(Ipv4Addr::new(192, 0, 2, 7));
    let record = super::wire::Record { name: query.name.clone(), ttl: 60, data };
    Reply { answers: vec![record], ..Reply::code(super::wire::Code::NoError) }.write(&query, 512)
}

#[test]
fn another_servers_answer_reaches_the_client_only_if_it_is_one() {
    let mut client = question("example.org", kind::A);
    client[..2].copy_from_slice(&[0xab, 0xcd]);
    let forward = forwarded(&client, Transport::Udp);
    let request = forward.request(0x1234);
    assert_eq!(request[..2], [0x12, 0x34]);
    let answer = answer_to(&request);
    assert_eq!(forward.finish(0x1235, &answer), None, "another id");
    assert_eq!(forward.finish(0x1234, &request), None, "a question");
    let other = answer_to(&forwarded(&question("example.com", kind::A), Transport::Udp).request(0x1234));
    assert_eq!(forward.finish(0x1234, &other), None, "another name");
    let given = forward.finish(0x1234, &answer).expect("the answer");
    assert_eq!(given[..2], [0xab, 0xcd]);
    assert_eq!(text(&given), "ok example.org. A 192.0.2.7");
    assert!(text(&forward.fail()).starts_with("fail"));
    let mut long = answer.clone();
    long.resize(4000, 0);
    assert_eq!(text(&forward.finish(0x1234, &long).expect("an answer")), "ok cut");
}

#[test]
fn an_alias_out_of_the_cluster_is_followed() {
    let forward = forwarded(&question("out.ns.svc.cluster.local", kind::A), Transport::Udp);
    let request = forward.request(7);
    assert_eq!(Query::parse(&request).expect("a query").name, Name::parse("example.org").expect("a name"));
    let given = forward.finish(7, &answer_to(&request)).expect("an answer");
    assert_eq!(text(&given), "ok out.ns.svc.cluster.local. CNAME example.org. example.org. A 192.0.2.7");
}

#[test]
fn what_is_no_query_gets_no_answer_or_an_error() {
    let zone = zone();
    let whole = question("web.ns.svc.cluster.local", kind::A);
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
        let mut message = whole.clone();
        change(&mut message);
        let came = match respond(&zone, &message, Transport::Udp) {
            Outcome::Reply(message) => {
                ["ok", "bad", "fail", "none", "unknown", "refused"][usize::from(message[3] & 15)]
            }
            Outcome::Forward(_) => "elsewhere",
            Outcome::Ignore => "ignored",
        };
        assert_eq!(came, expected);
    };
    check(&|_| {}, "ok");
    check(&|m| m.truncate(11), "ignored");
    check(&|m| m[2] |= 0x80, "ignored");
    check(&|m| m[2] |= 0x10, "unknown");
    check(&|m| m[5] = 0, "bad");
    check(&|m| m[5] = 2, "bad");
    check(&|m| m.truncate(20), "bad");
    check(&|m| m[12] = 0xc0, "bad");
    check(&|m| m[12] = 0x80, "bad");
    check(&|m| m[11] = 9, "bad");
    let class = whole.len() - 11 - 1;
    check(&|m| m[class] = 3, "refused");
    let version = whole.len() - 5;
    check(&|m| m[version] = 1, "refused");
}

#[test]
fn resolvers_come_from_the_nodes_file() {
    let text = "# made by hand\nsearch lan\nnameserver 10.43.0.10\nnameserver 192.0.2.1\n nameserver ::1 x\n\
                nameserver nonsense\nnameserver\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
    let servers: Vec<String> = resolv::servers(text, [10, 43, 0, 10].into()).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.1:53", "[::1]:53", "192.0.2.3:53"]);
}

proptest! {
    /// No bytes make it panic, and no UDP answer is longer than allowed.
    #[test]
    fn hostile_messages_do_no_harm(mut message in proptest::collection::vec(any::<u8>(), 0..300), header: bool) {
        if header && message.len() > 12 {
            message[2] &= 0x07;
            message[4..12].copy_from_slice(&[0, 1, 0, 1, 0, 1, 0, 1]);
        }
        match respond(&zone(), &message, Transport::Udp) {
            Outcome::Reply(answer) => prop_assert!(answer.len() <= 1232),
            Outcome::Forward(forward) => _ = forward.finish(0, &message),
            Outcome::Ignore => {}
        }
        if let Some(answer) = Answer::parse(&message) {
            let _ = answer.records();
        }
    }

    /// A true question with any byte changed is answered or refused, and an answer with any byte
    /// changed is taken or left, without a panic.
    #[test]
    fn bent_messages_do_no_harm(at in 0_usize..60, to: u8) {
        let mut message = question("db.ns.svc.cluster.local", kind::SRV);
        let at = at % message.len();
        message[at] = to;
        let _ = respond(&zone(), &message, Transport::Udp);
        let forward = forwarded(&question("out.ns.svc.cluster.local", kind::A), Transport::Udp);
        let mut answer = answer_to(&forward.request(7));
        let at = at % answer.len();
        answer[at] = to;
        let _ = forward.finish(7, &answer);
    }
}
