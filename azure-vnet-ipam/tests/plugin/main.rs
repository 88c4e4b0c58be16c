//! The real binary against a real HTTP server on 127.0.0.1, each test on a node and with a state directory of its own.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and runs the program it is about"
)]

mod add;
mod check;
mod concurrency;
mod del;
mod gc;
mod node;
mod original;
mod particular;
mod place;
mod random;
mod record;
mod refresh;
mod sources;
mod status;
mod vm;
mod wireserver;
