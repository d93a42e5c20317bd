//! `/coracle/v1/backup`: GET is a copy of everything, taken now; POST tells the server that one lies
//! safe, so that it can name it when it cannot open its store.

use coracle_shared::api::status::Status;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::Api;
use super::authz::MASTERS;
use super::handle;
use super::http::Client;
use super::reply::{self, Cut, Payload, Reply, respond};
use crate::kinds::View;

/// The path of it.
pub const PATH: &str = "/coracle/v1/backup";

/// The longest word that is kept about a backup.
const MAX_WORD: usize = 512;

/// A backup's bytes, piece by piece.
pub type Pieces = Box<dyn Iterator<Item = std::io::Result<Vec<u8>>> + Send>;

/// Where backups come from.
pub trait Backups: Send + Sync + 'static {
    /// Begins one.
    fn take(&self) -> Result<Pieces, String>;
    /// Remembers one, by a line of words, as the last good one.
    fn remember(&self, words: &str) -> Result<(), String>;
}

impl Api {
    /// Answers for a backup: an administrator only, for it holds everything there is.
    pub async fn backup(&self, client: &Client, request: Request<Incoming>) -> Result<Reply, Status> {
        let method = request.method().clone();
        if !client.who.groups.iter().any(|group| group == MASTERS) {
            return Err(Status::denied_path(&client.who.user, &method.as_str().to_lowercase(), PATH));
        }
        let backups = self.backups.clone().ok_or_else(Status::no_such_path)?;
        match method {
            Method::GET => {
                let pieces = smol::unblock(move || backups.take()).await.map_err(Status::internal)?;
                let pieces = pieces.map(|piece| piece.map(Bytes::from).map_err(|_| Cut));
                let stream = Payload::Stream(Box::pin(futures_lite::stream::iter(pieces)));
                Ok(respond(StatusCode::OK, "application/octet-stream", stream))
            }
            Method::POST => {
                let body = handle::read(request).await?;
                let told: Value = serde_json::from_slice(&body).map_err(|e| Status::bad_request(e.to_string()))?;
                let words = words(&told, (self.config.clock)());
                smol::unblock(move || backups.remember(&words)).await.map_err(Status::internal)?;
                Ok(reply::value(StatusCode::OK, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})))
            }
            _ => {
                let mut status = Status::no_such_path();
                (status.code, status.reason) = (405, "MethodNotAllowed");
                status.message = "a backup is read by GET and reported by POST".into();
                Err(status)
            }
        }
    }
}

/// What is remembered of a backup: one line, whatever was told.
fn words(told: &Value, now: i64) -> String {
    let view = View(told);
    let word =
        |name: &str| -> String { view.text(&[name]).chars().filter(|c| !c.is_control()).take(MAX_WORD).collect() };
    let time = jiff::Timestamp::from_millisecond(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{} on {}, of {time:.0}, SHA-256 {}", word("file"), word("host"), word("sha256"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_remembered_in_one_line() {
        let told = json!({"file": "/b/one\nx", "host": "h", "sha256": "abc"});
        assert_eq!(words(&told, 1000), "/b/onex on h, of 1970-01-01T00:00:01Z, SHA-256 abc");
        assert_eq!(words(&json!([1]), 0), " on , of 1970-01-01T00:00:00Z, SHA-256 ");
    }
}
