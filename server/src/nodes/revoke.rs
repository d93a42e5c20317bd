//! Shutting a stolen node out: its key goes into the table of revoked keys and its session ends.
//!
//! The Node object stays, unschedulable and annotated, so that its pods are judged like those of any
//! node that went silent; a person who deletes it says that they are gone.

use coracle_shared::ids::Fingerprint;
use coracle_shared::wire::{Refuse, RefuseCode};
use coracle_store::{Change, Class, Commit, CommitError, Key, Precondition, Store};
use serde_json::Value;

use super::join::NODE_KEYS;
use super::stored::{SCHEMA, decode, encode, time};
use super::token::refuse;
use super::{Nodes, log};
use crate::api::stream::{RevokeError, Revoked};
use crate::pki::revoked;

/// On the Node: when its key was revoked.
pub const ANNOTATION: &str = "coracle.dev/revoked";
/// How often a commit is tried when others change the node meanwhile.
const ATTEMPTS: usize = 20;

/// What has to be written to revoke a node's key, and the key; no key when that was done before.
fn plan(store: &dyn Store, node: &str, now: i64) -> Result<(Commit, Option<Fingerprint>), RevokeError> {
    let (object_key, bound_key) = (Key::new("nodes", "", node), Key::new(NODE_KEYS, "", node));
    let (object, bound) = (store.get(&object_key), store.get(&bound_key));
    let was_revoked =
        object.as_ref().is_some_and(|item| decode(item)["metadata"]["annotations"][ANNOTATION].is_string());
    let Some(bound) = bound else {
        return match was_revoked {
            true => Ok((Commit::new(), None)),
            false if object.is_some() => Err(RevokeError::NeverJoined),
            false => Err(RevokeError::NoSuchNode),
        };
    };
    let text = String::from_utf8_lossy(&bound.value).into_owned();
    let key: Fingerprint =
        text.parse().map_err(|_| RevokeError::Store(format!("the key that {node} is bound to is unreadable")))?;
    let mut commit = Commit::new()
        .require(Precondition::At(bound_key.clone(), bound.revision))
        .change(Change::Delete { key: bound_key, last: None })
        .put(revoked::key(key), SCHEMA, revoked::entry(node, &time(now)));
    if let Some(item) = object {
        let value = encode("Node", &marked(&decode(&item), now));
        commit = commit.require(Precondition::At(object_key.clone(), item.revision)).change(Change::Put {
            key: object_key,
            schema: item.schema,
            value,
            class: Class::Durable,
            seal: None,
        });
    }
    Ok((commit, Some(key)))
}

fn marked(node: &Value, now: i64) -> Value {
    let mut object = node.clone();
    object["metadata"]["annotations"][ANNOTATION] = time(now).into();
    object["spec"]["unschedulable"] = true.into();
    object
}

/// The Node of a revoked name that another key has joined under: the marks go.
pub fn cleared(node: &Value) -> Option<Value> {
    let mut object = node.clone();
    object["metadata"]["annotations"].as_object_mut()?.remove(ANNOTATION)?;
    object["spec"].as_object_mut()?.remove("unschedulable");
    Some(object)
}

/// The refusal of a revoked key; `None` when it is not.
pub fn check(store: &dyn Store, key: Fingerprint, node: &str) -> Option<Refuse> {
    let since = revoked::since(store, key)?;
    let message = format!(
        "the key of node {node} was revoked at {since}: to let this machine in again, stop the agent, remove the directory `identity` of its state, and start it with --join and a new line from `coracle token create`"
    );
    Some(refuse(RefuseCode::Revoked, message))
}

impl Nodes {
    /// Revokes the key that a node's name is bound to; when it returns, that is durable and the session
    /// is over.
    pub async fn revoke_node(&self, node: &str) -> Result<Revoked, RevokeError> {
        let shared = &self.shared;
        for _ in 0..ATTEMPTS {
            let (commit, key) = plan(&*shared.store, node, shared.wall_millis())?;
            if key.is_none() {
                return Ok(Revoked::Before);
            }
            match shared.store.commit(commit).await {
                Ok(_) => {
                    if let Some(connection) = shared.registry.connection(node) {
                        super::session::close_revoked(&connection);
                    }
                    log(&format!("node {node} was revoked"));
                    return Ok(Revoked::Now);
                }
                // The node's report was faster: look again.
                Err(CommitError::Failed(_)) => {}
                Err(error) => return Err(RevokeError::Store(format!("{error:?}"))),
            }
        }
        Err(RevokeError::Store("the node changes faster than it can be written; try again".into()))
    }
}
