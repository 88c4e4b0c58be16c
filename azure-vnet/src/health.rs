//! Health is a path: where would a packet go, and what stops it first? What STATUS, the command line and the metrics say of the node
//! is said here, in one form, each with what mends it.

pub mod check;
pub mod finding;
pub mod firewall;
pub mod manager;
pub mod path;

pub use check::Check;
pub use finding::{Finding, Verdict};

/// What mends all that the node has to know of its pods.
pub const ANY_CALL: &str = "azure-vnet gc, or the next ADD or DEL of any pod";
