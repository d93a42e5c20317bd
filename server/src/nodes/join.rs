//! Letting a machine in: its token is spent, its name bound to its key and its Node made in one
//! commit, so that a token can be neither replayed nor raced, and nothing is half-joined.

use std::sync::Arc;
use std::time::SystemTime;

use coracle_shared::codec::{self, MAX_JOIN_FRAME};
use coracle_shared::ids::Fingerprint;
use coracle_shared::wire::{JoinReply, JoinRequest, Joined, ProtocolRange, Refuse, RefuseCode};
use coracle_store::{Change, Class, Commit, CommitError, Item, Key, Precondition, Store};
use coracle_transport::{Pipe, PipeError};

use super::stored::{SCHEMA, decode, encode, new_uid, wall};
use super::token::{self, Uses, refuse};
use super::{log, merge, revoke};
use crate::pki::{Pki, request_key};

/// The table that binds node names to keys: the value is the key's SHA-256 in hexadecimal.
pub const NODE_KEYS: &str = "-nodekey";
/// How often a commit is tried when others change the same token or name meanwhile.
const ATTEMPTS: usize = 5;

/// Serves one connection without a certificate: one request, one answer.
pub async fn serve(
    pipe: &mut Pipe,
    protocols: ProtocolRange,
    pki: &Pki,
    store: &dyn Store,
    now: SystemTime,
) -> Result<(), PipeError> {
    let bytes = pipe.next_frame().await?;
    let reply = match codec::decode::<JoinRequest>(&bytes) {
        Err(error) => {
            JoinReply::Refused(refuse(RefuseCode::Malformed, format!("the request can not be read: {error}")))
        }
        Ok(request) => match join(&request, protocols, pki, store, now).await {
            Ok(joined) => {
                log(&format!("node {} joined with token {}", request.node, request.token_id));
                JoinReply::Accepted(joined)
            }
            Err(refuse) => {
                let (node, from) = (printable(&request.node), printable(&request.token_id));
                log(&format!("join of node {node} with token {from} refused: {}", refuse.message));
                JoinReply::Refused(refuse)
            }
        },
    };
    pipe.queue(&reply);
    pipe.flush().await?;
    pipe.send.finish();
    // The answer has to arrive before the connection goes.
    pipe.send.stopped().await;
    Ok(())
}

/// What a stranger sends goes into the log without control characters, and short.
fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

async fn join(
    request: &JoinRequest,
    protocols: ProtocolRange,
    pki: &Pki,
    store: &dyn Store,
    now: SystemTime,
) -> Result<Joined, Refuse> {
    let node = &request.node;
    if protocols.common(request.protocols).is_none() {
        return Err(refuse(RefuseCode::Protocol, "agent and server speak no common protocol: update the older".into()));
    }
    if !is_node_name(node) {
        let message = "a node's name consists of lower-case letters, digits, - and . (RFC 1123)".into();
        return Err(refuse(RefuseCode::Malformed, message));
    }
    let key = request_key(&request.csr).map_err(|e| refuse(RefuseCode::Malformed, e.to_string()))?;
    for _ in 0..ATTEMPTS {
        let commit = plan(request, key, store, wall(now))?;
        match store.commit(commit).await {
            Ok(_) => {
                let signed = pki
                    .sign_node_csr(&request.csr, node, now)
                    .map_err(|e| refuse(RefuseCode::Malformed, e.to_string()))?;
                return Ok(Joined {
                    cluster: pki.cluster(),
                    certificate: signed.certificate,
                    cas: vec![pki.ca().to_vec()],
                    now: wall(now),
                });
            }
            // Somebody was faster: look again.
            Err(CommitError::Failed(_)) => {}
            Err(error) => return Err(refuse(RefuseCode::Unavailable, format!("the store could not write: {error:?}"))),
        }
    }
    Err(refuse(RefuseCode::Unavailable, "too many joins at once; try again".into()))
}

/// Decides, and says what has to be written for it.
fn plan(request: &JoinRequest, key: Fingerprint, store: &dyn Store, now: i64) -> Result<Commit, Refuse> {
    let node = &request.node;
    let unknown = || token::check(None, &printable(&request.token_id), "", now).map(|_| Commit::new());
    if let Some(refused) = revoke::check(store, key, node) {
        return Err(refused);
    }
    let Some(secret_key) = token::key(&request.token_id) else { return unknown() };
    let secret: Option<Item> = store.get(&secret_key);
    let object = secret.as_ref().map(decode);
    let uses = token::check(object.as_ref(), &request.token_id, &request.token_secret, now)?;
    let (Some(secret), Some(object)) = (secret, object) else { return unknown() };

    let mut commit = Commit::new();
    let node_key = Key::new("nodes", "", node.as_str());
    let existing = store.get(&node_key);
    let exists = existing.is_some();
    let bound = match bind(&mut commit, node, key, store) {
        // Somebody removed that node: its name is free for another machine.
        Err(Bound { item, .. }) if !exists => {
            commit = commit.replace(item.key, item.revision, SCHEMA, key.to_string().into_bytes());
            false
        }
        Err(Bound { refuse, .. }) => return Err(refuse),
        Ok(bound) => bound,
    };
    commit = match uses {
        Uses::Unlimited => commit.require(Precondition::At(secret_key, secret.revision)),
        // The same key asks for its own name again: the answer got lost, and no use is spent.
        Uses::Left(_) if bound => commit.require(Precondition::At(secret_key, secret.revision)),
        Uses::Left(0) => return Err(token::spent(&request.token_id)),
        Uses::Left(left) => commit.require(Precondition::At(secret_key.clone(), secret.revision)).change(Change::Put {
            key: secret_key,
            schema: secret.schema,
            value: encode("Secret", &token::used(&object, left, now)),
            class: Class::Durable,
            seal: Some(Arc::from(object["metadata"]["uid"].as_str().unwrap_or_default())),
        }),
    };
    if let Some(item) = existing
        && let Some(cleared) = revoke::cleared(&decode(&item))
    {
        commit = commit.replace(node_key.clone(), item.revision, item.schema, encode("Node", &cleared));
    }
    if !exists {
        let uid = new_uid().map_err(|e| refuse(RefuseCode::Unavailable, e.to_string()))?;
        let object = merge::create_node(node, &uid, &request.architecture, now);
        commit = commit.create(node_key, SCHEMA, encode("Node", &object));
    }
    Ok(commit)
}

/// The name is bound to another key.
pub struct Bound {
    item: Item,
    pub refuse: Refuse,
}

/// Binds a node's name to a key. `true`: it was bound to this key already.
pub fn bind(commit: &mut Commit, node: &str, key: Fingerprint, store: &dyn Store) -> Result<bool, Bound> {
    let table = Key::new(NODE_KEYS, "", node);
    match store.get(&table) {
        None => {
            *commit = std::mem::take(commit).create(table, SCHEMA, key.to_string().into_bytes());
            Ok(false)
        }
        Some(item) if *item.value == *key.to_string().as_bytes() => {
            commit.preconditions.push(Precondition::At(table, item.revision));
            Ok(true)
        }
        Some(item) => {
            let message = format!(
                "the name {node} belongs to a machine with another key: choose another name, or remove that node first (kubectl delete node {node})"
            );
            Err(Bound { item, refuse: refuse(RefuseCode::NameTaken, message) })
        }
    }
}

/// RFC 1123 subdomain, and short enough for a label.
fn is_node_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    name.len() <= 63 && name.split('.').all(is_part)
}

/// The most that a stranger may send.
pub const LIMIT: usize = MAX_JOIN_FRAME;
