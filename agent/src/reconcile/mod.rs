//! The agent's core: what each pod of the node should be, step by step.
//!
//! [`view`] parses a pod once; [`state`] holds what is known of it; [`plan`] says, purely, what to do
//! next; [`owner`] binds the three and words the reports; [`fleet`] holds all owners behind one
//! sans-IO interface. Around that core: [`driver`] feeds it with what happens, [`effects`] does what
//! it asks for.

mod checks;
pub mod driver;
pub mod effects;
pub mod env;
pub mod fleet;
pub mod owner;
pub mod plan;
pub mod spec;
pub mod state;
pub mod step;
pub mod view;
pub mod work;

#[cfg(test)]
mod tests;
