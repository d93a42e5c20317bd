//! `POST nodes/NAME/revoke`: shuts a node out for good.

use coracle_shared::api::status::{Details, Status, success};
use hyper::StatusCode;

use super::{RevokeError, Revoked};
use crate::api::Api;
use crate::api::list::resource;
use crate::api::reply::{self, Reply};
use crate::api::route::Target;

impl Api {
    /// Revokes the key of a node. Answers with a Status whose message says what was done; revoking twice
    /// is no error.
    pub async fn revoke(&self, target: &Target) -> Result<Reply, Status> {
        let name = &target.name;
        let done = self.nodes.revoke(name).await.map_err(|error| match error {
            RevokeError::NoSuchNode => Status::not_found(resource(target.kind), name),
            RevokeError::NeverJoined => Status::conflict(
                resource(target.kind),
                name,
                "no machine has joined under this name, so that there is no key to revoke",
            ),
            RevokeError::Store(reason) => Status::unavailable(format!("node {name} could not be revoked: {reason}")),
        })?;
        let mut status = success(Some(&Details { name: name.clone(), kind: "nodes".into(), ..Details::default() }));
        status["code"] = 201.into();
        status["message"] = match done {
            Revoked::Now => format!("node {name} was revoked: its session has ended and its key is refused for good"),
            Revoked::Before => format!("node {name} was revoked before"),
        }
        .into();
        Ok(reply::value(StatusCode::CREATED, &status))
    }
}
