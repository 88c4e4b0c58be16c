//! The four eBPF programs, packet by packet, in the kernel (`BPF_PROG_TEST_RUN`) but on no wire.
//!
//! A test sends one packet through one hook and compares everything that this may change with what
//! it builds itself: all bytes of the packet, the verdict, the flow table and the counters. One file
//! per hook, one per story that takes several hooks, and two that try what nobody thought of.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

// What a test is made of.
mod flows;
mod harness;
mod machine;
mod oracle;
mod packet;
mod plan;

// The hooks.
mod arp;
mod devices;
mod from_pod;
mod from_uplink;
mod short_frames;
mod to_pods;
mod to_uplink;
mod unknown_port;

// Stories.
mod fast_path;
mod forged;
mod fragments;
mod icmp_errors;
mod inbound;
mod last_seen;
mod masquerade;
mod policy;
mod proof;
mod tcp_state;

// The ports.
mod allocator;
mod allocator_model;
mod keyed_ports;
mod refusal;
mod reserved;
mod search;
mod share;
mod sweeper;

// Everything else.
mod cost;
mod random;
mod reasons;
