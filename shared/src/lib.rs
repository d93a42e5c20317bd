//! Coracle's pure core: what server and agent both know.
//!
//! No I/O, no clock, no runtime, no randomness: time and entropy come in as arguments.

pub mod api;
pub mod codec;
pub mod contact;
pub mod desired;
pub mod digest;
pub mod event;
pub mod fault;
pub mod ids;
pub mod join;
pub mod mux;
pub mod report;
pub mod session;
pub mod submit;
pub mod time;
pub mod wire;
