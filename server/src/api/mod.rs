//! The Kubernetes API over HTTPS: one pipeline `authn → authz → mutate → schema → validate → store`
//! for HTTP clients and, through `Submit`, for controllers alike.

pub mod object;
mod query;
mod route;
pub mod stream;
