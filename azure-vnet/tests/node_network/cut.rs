//! Work that is killed in its middle.

use std::pin::pin;
use std::task::Poll;

use azure_vnet::netlink::Netlink;

use crate::lab::netlink;

/// Kills the work after so many requests to the kernel; says whether it was complete by then.
pub async fn cut_short<F: Future<Output = ()>>(requests: u64, work: impl Fn(Netlink) -> F) -> bool {
    let netlink = netlink();
    let complete = until(&netlink, requests, work(netlink.clone())).await;
    // What was sent before the end, the kernel carries out.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    complete.is_some()
}

/// Drives a future until it has sent so many requests, and drops it there.
async fn until<T>(netlink: &Netlink, requests: u64, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if netlink.requests() >= requests => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}
