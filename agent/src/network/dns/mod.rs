//! The cluster's names, answered on the node itself.
//!
//! A small process of its own ([`child_main`]) answers: it lives on when the agent restarts, so that
//! names keep working, and holds no privilege once its sockets are bound. The agent hands it the names
//! over a Unix socket (`feed`). `wire`, `zone` and `answer` are pure; `serve` moves bytes.

mod answer;
mod child;
pub(crate) mod feed;
mod flight;
mod resolv;
mod serve;
mod stream;
#[cfg(test)]
mod tests;
mod wire;
pub(crate) mod zone;

pub use child::child_main;
pub use feed::NamesState;
