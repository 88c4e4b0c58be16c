//! Work that is killed in its middle.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use azure_vnet::netlink::Netlink;

use crate::lab::netlink;

/// So many at once: they wait for the kernel most of the time.
const AT_ONCE: usize = 4;

/// Has the test cut the work short after one request, after two, and so on, until it says that the work was complete by then. Says
/// after how many that was.
pub fn everywhere(test: impl Fn(u64) -> bool + Sync) -> u64 {
    let (next, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
    let fewest = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let requests = next.fetch_add(1, Ordering::SeqCst);
                    if test(requests) {
                        is_over.store(true, Ordering::SeqCst);
                        fewest.fetch_min(requests, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    fewest.into_inner()
}

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
