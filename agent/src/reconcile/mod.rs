//! The agent's core: what each pod of the node should be, step by step.
//!
//! [`view`] parses a pod once; [`state`] holds what is known of it; [`plan`] says, purely, what to do
//! next; [`owner`] binds the three and words the reports; [`fleet`] holds all owners behind one
//! sans-IO interface.

pub mod env;
pub mod fleet;
pub mod owner;
pub mod plan;
pub mod spec;
pub mod state;
pub mod step;
pub mod view;

#[cfg(test)]
mod tests;
