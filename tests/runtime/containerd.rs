//! containerd, driven through CRI as a kubelet drives it.

mod chain;
mod daemon;
mod failing;
mod life;
mod many;
mod upgrade;

pub use daemon::Containerd;
