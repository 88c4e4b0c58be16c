//! The netfilter tier frame by frame: what the rules do with addresses, by nft and by iptables. What they let pass of a pod at all
//! is in the stage `hostile`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod addresses;
mod strangers;
