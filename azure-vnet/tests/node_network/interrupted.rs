//! A move that is cut short, at every step and at every single netlink request, and then continued.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use azure_vnet::netlink::Netlink;
use azure_vnet::node::ensure;
use azure_vnet::node::migrate::{Migration, Step};

use crate::lab::{assert_same, ip, lab, moved, netlink, network, rich_node, run, wanted};

#[test]
fn the_next_call_continues_after_every_step() {
    for steps in 0..=Step::ALL.len() {
        lab(move || {
            rich_node(1500);
            let before = network();
            run(async {
                let netlink = netlink();
                let mut migration = Migration::plan(&netlink, &wanted()).await.unwrap();
                migration.begin().await.unwrap();
                for step in &Step::ALL[..steps] {
                    migration.step(*step).await.unwrap();
                }
            });
            is_repaired(&before, &format!("stopped after {steps} steps"));
        });
    }
}

#[test]
fn the_next_call_continues_after_every_request() {
    let mut stop_after = 1;
    while is_cut_short(stop_after) {
        stop_after += 1;
    }
    // The move of this node takes this many at the least: it was really cut short.
    assert!(
        stop_after > 40,
        "the move ended after {stop_after} requests"
    );
}

/// Says whether the move was not yet complete after so many requests; continues it either way.
fn is_cut_short(requests: u64) -> bool {
    let (answer, result) = std::sync::mpsc::channel();
    lab(move || {
        rich_node(1500);
        let before = network();
        let cut_short = run(async {
            let netlink = netlink();
            let complete = until(&netlink, requests, ensure(&netlink, &wanted())).await;
            // What was sent before the end, the kernel carries out.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            complete.is_none()
        });
        is_repaired(&before, &format!("stopped after {requests} requests"));
        answer.send(cut_short).unwrap();
    });
    result.recv().unwrap()
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

/// At the moment of the cut every address is somewhere; after the next call all is as it should be.
fn is_repaired(before: &[String], when: &str) {
    let meanwhile = network();
    for line in before.iter().filter(|line| line.starts_with("eth0 inet")) {
        let address = line.split(' ').nth(2).unwrap();
        let somewhere = |other: &String| other.contains(&format!(" {address} "));
        assert!(meanwhile.iter().any(somewhere), "{when}: {address} is lost");
    }
    let node = run(async { ensure(&netlink(), &wanted()).await });
    let node = node.unwrap_or_else(|error| panic!("{when}: {error:?}"));
    assert_eq!(node.gateway, Some([10, 0, 0, 1].into()), "{when}");
    assert_same(&network(), &moved(before, "eth0", "azure0"), when);
    assert!(ip("link show eth0").contains("master azure0"), "{when}");
}
