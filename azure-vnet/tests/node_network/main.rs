//! The node's network and a pod's network against the real kernel. Every test has network and
//! mount namespaces of its own, on a thread that takes them along when it ends. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests set up and read the kernel with ip(8), not with the code under test"
)]

mod advertised;
mod cut;
mod lab;
mod legacy;
mod namespaces;

mod node;
mod old;
mod pod;
mod pods;
mod reboot;
mod repair;
mod takeover;
mod teardown;
mod way_out;
