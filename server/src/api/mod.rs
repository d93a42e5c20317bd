//! The Kubernetes API over HTTPS: one pipeline `authn → authz → mutate → schema → validate → store`
//! for HTTP clients and, through `Submit`, for controllers alike.

mod accept;
pub mod authz;
mod body;
mod list;
pub mod object;
mod query;
mod reply;
mod route;
mod select;
pub mod stream;
mod table;
mod watch;
mod write;

use std::sync::Arc;

/// Milliseconds since the Unix epoch.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;
