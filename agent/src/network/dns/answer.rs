//! What becomes of a question: an answer from the zone, or the way to another server. Pure.

use super::wire::{Answer, Code, Data, IN, Malformed, Name, Query, Record, Reply, TCP_LIMIT, error, kind};
use super::zone::{TTL, Zone};

/// Aliases followed inside the cluster before giving up: two services naming each other would
/// otherwise never end.
const MAX_ALIASES: usize = 8;

/// How a question came, and so how its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Reply(Vec<u8>),
    Forward(Box<Forward>),
    Ignore,
}

/// A question for another server, and what to do with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    pub transport: Transport,
    query: Query,
    /// What is sent, but for its id.
    message: Vec<u8>,
    /// The question inside `message`.
    question: Vec<u8>,
    /// The aliases that led there from the client's question; empty when the question is the client's.
    aliases: Vec<Record>,
}

/// Answers a message from a client.
pub(crate) fn respond(zone: &Zone, message: &[u8], transport: Transport) -> Outcome {
    let query = match Query::parse(message) {
        Ok(query) => query,
        Err(Malformed::Ignore) => return Outcome::Ignore,
        Err(Malformed::Answer { id, code }) => return Outcome::Reply(error(id, code)),
    };
    let reply = |reply: Reply| Outcome::Reply(reply.write(&query, limit(&query, transport)));
    if query.edns.is_some_and(|(_, version)| version != 0) || query.class != IN {
        return reply(Reply::code(Code::Refused));
    }
    if query.name.is_within(&zone.domain) {
        return match local(zone, &query) {
            Local::Reply(answer) => reply(answer),
            Local::Elsewhere(target, aliases) => {
                let message = Query::write(0, &target, query.kind);
                let question = Query::parse(&message).map(|q| q.question).unwrap_or_default();
                Outcome::Forward(Box::new(Forward { transport, query, message, question, aliases }))
            }
        };
    }
    if let Some(names) = query.name.reversed_address().and_then(|a| zone.names_of(a)) {
        return reply(pointers(zone, &query, names));
    }
    if !query.recursion {
        return reply(Reply::code(Code::Refused));
    }
    let question = query.question.clone();
    Outcome::Forward(Box::new(Forward { transport, query, message: message.to_vec(), question, aliases: Vec::new() }))
}

fn limit(query: &Query, transport: Transport) -> usize {
    match transport {
        Transport::Udp => query.udp_limit(),
        Transport::Tcp => TCP_LIMIT,
    }
}

enum Local {
    Reply(Reply),
    /// An alias that leads out of the cluster.
    Elsewhere(Name, Vec<Record>),
}

fn local(zone: &Zone, query: &Query) -> Local {
    let mut reply = Reply { authoritative: true, ..Reply::code(Code::NoError) };
    let mut name = query.name.clone();
    for _ in 0..MAX_ALIASES {
        let Some(entry) = zone.get(&name) else {
            reply.code = Code::NoSuchName;
            break;
        };
        let Some(target) = entry.alias.as_ref().filter(|_| query.kind != kind::CNAME) else {
            reply.answers.extend(entry_records(zone, &name, query));
            reply.additional = glue(zone, &reply.answers);
            break;
        };
        reply.answers.push(Record { name, ttl: TTL, data: Data::Cname(target.clone()) });
        if !target.is_within(&zone.domain) {
            return Local::Elsewhere(target.clone(), reply.answers);
        }
        name = target.clone();
    }
    if reply.answers.is_empty() || reply.code != Code::NoError {
        reply.authority.push(zone.authority());
    }
    Local::Reply(reply)
}

/// The records of that type, turned by the client's id so that clients do not all take the first.
fn entry_records(zone: &Zone, name: &Name, query: &Query) -> Vec<Record> {
    let Some(entry) = zone.get(name) else { return Vec::new() };
    let mut data: Vec<Data> = match query.kind {
        kind::A | kind::ANY => entry.addresses.iter().copied().map(Data::A).collect(),
        kind::SRV => {
            entry.services.iter().map(|(port, target)| Data::Srv { port: *port, target: target.clone() }).collect()
        }
        kind::CNAME => entry.alias.iter().cloned().map(Data::Cname).collect(),
        kind::TXT => entry.text.into_iter().map(Data::Txt).collect(),
        kind::SOA if *name == zone.domain => return vec![zone.authority()],
        _ => Vec::new(),
    };
    if !data.is_empty() {
        let turn = usize::from(query.id) % data.len();
        data.rotate_left(turn);
    }
    data.into_iter().map(|data| Record { name: name.clone(), ttl: TTL, data }).collect()
}

/// The addresses of what SRV records point to.
fn glue(zone: &Zone, answers: &[Record]) -> Vec<Record> {
    let targets = answers.iter().filter_map(|record| match &record.data {
        Data::Srv { target, .. } => Some(target),
        _ => None,
    });
    let mut names: Vec<&Name> = targets.collect();
    names.sort();
    names.dedup();
    let addresses = |name: &Name| zone.get(name).map(|e| e.addresses.clone()).unwrap_or_default();
    let records = |name: &Name| {
        let name = name.clone();
        addresses(&name).into_iter().map(move |a| Record { name: name.clone(), ttl: TTL, data: Data::A(a) })
    };
    names.into_iter().flat_map(records).collect()
}

fn pointers(zone: &Zone, query: &Query, names: &[Name]) -> Reply {
    let mut reply = Reply { authoritative: true, ..Reply::code(Code::NoError) };
    if names.is_empty() {
        reply.code = Code::NoSuchName;
    } else if matches!(query.kind, kind::PTR | kind::ANY) {
        let record = |name: &Name| Record { name: query.name.clone(), ttl: TTL, data: Data::Ptr(name.clone()) };
        reply.answers = names.iter().map(record).collect();
    }
    if reply.answers.is_empty() {
        reply.authority.push(zone.authority());
    }
    reply
}

impl Forward {
    /// What to send, under an id that the other server cannot guess.
    pub(crate) fn request(&self, id: u16) -> Vec<u8> {
        let mut message = self.message.clone();
        message[..2].copy_from_slice(&id.to_be_bytes());
        message
    }

    /// The client's answer, when `message` is the other server's to the request with this id; `None`
    /// for everything else that may arrive.
    pub(crate) fn finish(&self, id: u16, message: &[u8]) -> Option<Vec<u8>> {
        let answer = Answer::parse(message).filter(|a| a.id == id && a.answers(&self.question))?;
        let limit = limit(&self.query, self.transport);
        if !self.aliases.is_empty() {
            let mut own = self.through_alias(&answer).write(&self.query, limit);
            own[2] |= if answer.cut { 2 } else { 0 };
            return Some(own);
        }
        if message.len() > limit {
            // The client gets nothing of it but the word to ask again over TCP.
            let mut cut = Reply::code(Code::NoError).write(&self.query, limit);
            cut[2] |= 2;
            return Some(cut);
        }
        let mut own = message.to_vec();
        own[..2].copy_from_slice(&self.query.id.to_be_bytes());
        Some(own)
    }

    fn through_alias(&self, answer: &Answer<'_>) -> Reply {
        // An alias that leads to nothing is still an alias: with NoSuchName the client may stop there.
        let code = match answer.code {
            0 => Code::NoError,
            3 => Code::NoSuchName,
            _ => Code::ServerFailure,
        };
        let answers = self.aliases.iter().cloned().chain(answer.records()).collect();
        Reply { answers, ..Reply::code(code) }
    }

    /// The answer when no other server gave one.
    pub(crate) fn fail(&self) -> Vec<u8> {
        Reply::code(Code::ServerFailure).write(&self.query, limit(&self.query, self.transport))
    }
}
