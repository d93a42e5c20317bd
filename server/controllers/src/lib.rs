//! The controllers: each brings one kind of object to what it says it should be.
//!
//! A controller marks keys dirty by the store's changes, looks at what concerns one key
//! ([`World`]), and has a pure `plan` that turns that into writes. One [`driver`] runs them all;
//! writes go through the API's own pipeline ([`coracle_shared::submit::Submit`]).

mod aggregation;
mod deployment;
mod driver;
mod endpoints;
mod garbage;
mod mirror;
mod namespace;
mod node;
mod object;
pub mod owners;
mod queue;
mod replicaset;
mod serviceaccount;
mod stepper;
mod world;

pub use driver::{Controllers, run};
pub use node::NodeLimits;
pub use stepper::{Batch, Stepper};
pub use world::World;
