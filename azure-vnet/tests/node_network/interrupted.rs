//! A move, there or back, that is cut short at every step and at every single netlink request, and then
//! continued, turned back, or ended by a call that has something else to do.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use azure_vnet::netlink::Netlink;
use azure_vnet::node::departure::{self, Departure};
use azure_vnet::node::migrate::{Migration, Step};
use azure_vnet::node::{ensure, leave, recover};

use crate::lab::{
    assert_same, everything, ip, lab, moved, netlink, network, rich_node, rules, run, wanted,
};

/// What comes next after a call was killed.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// An ADD.
    Add,
    /// A DEL or GC.
    Delete,
    /// A teardown.
    Teardown,
}

const NEXT: [Next; 3] = [Next::Add, Next::Delete, Next::Teardown];

#[test]
fn any_next_call_repairs_a_move_after_every_step() {
    for steps in 0..=Step::ALL.len() {
        for next in NEXT {
            lab(move || {
                let before = node();
                run(async {
                    let netlink = netlink();
                    let mut migration = Migration::plan(&netlink, &wanted()).await.unwrap();
                    migration.begin().await.unwrap();
                    for step in &Step::ALL[..steps] {
                        migration.step(*step).await.unwrap();
                    }
                });
                let when = format!("stopped after {steps} steps, then {next:?}");
                is_repaired(&before, next, Next::Add, &when);
            });
        }
    }
}

#[test]
fn any_next_call_repairs_a_teardown_after_every_step() {
    for steps in 0..=departure::Step::ALL.len() {
        for next in NEXT {
            lab(move || {
                let before = node();
                run(async {
                    let netlink = netlink();
                    ensure(&netlink, &wanted()).await.unwrap();
                    let departure = Departure::plan(&netlink, "azure0").await.unwrap();
                    let mut departure = departure.unwrap();
                    departure.begin().await.unwrap();
                    for step in &departure::Step::ALL[..steps] {
                        departure.step(*step).await.unwrap();
                    }
                });
                let when = format!("back, stopped after {steps} steps, then {next:?}");
                is_repaired(&before, next, Next::Teardown, &when);
            });
        }
    }
}

#[test]
fn the_next_call_continues_a_move_after_every_request() {
    let cut = cut_everywhere(|netlink| async move {
        ensure(&netlink, &wanted()).await.unwrap();
    });
    // The move of this node takes this many at the least: it was really cut short.
    assert!(cut > 60, "the move ended after {cut} requests");
}

#[test]
fn the_next_call_continues_a_teardown_after_every_request() {
    let cut = cut_everywhere_after(settled, Next::Teardown, |netlink| async move {
        leave(&netlink, "azure0", false).await.unwrap();
    });
    assert!(cut > 40, "the teardown ended after {cut} requests");
}

/// A node with everything, and what it has.
fn node() -> Before {
    rich_node(1500);
    rules();
    Before {
        network: network(),
        everything: everything(),
    }
}

struct Before {
    network: Vec<String>,
    everything: Vec<String>,
}

fn settled() {
    run(async { ensure(&netlink(), &wanted()).await }).unwrap();
}

fn cut_everywhere<F: Future<Output = ()> + 'static>(work: fn(Netlink) -> F) -> u64 {
    cut_everywhere_after(|| (), Next::Add, work)
}

/// Cuts the work short after the first request, after the second, and so on; says how many it takes.
fn cut_everywhere_after<F: Future<Output = ()> + 'static>(
    prepare: fn(),
    direction: Next,
    work: fn(Netlink) -> F,
) -> u64 {
    for (requests, next) in (1..).zip(NEXT.into_iter().cycle()) {
        let (answer, result) = std::sync::mpsc::channel();
        lab(move || {
            let before = node();
            prepare();
            let complete = run(cut_short(requests, work));
            let when = format!("{direction:?} stopped after {requests} requests, then {next:?}");
            is_repaired(&before, next, direction, &when);
            answer.send(complete).unwrap();
        });
        if result.recv().unwrap() {
            return requests;
        }
    }
    unreachable!("there is no last number")
}

/// Says whether the work was complete after so many requests.
async fn cut_short<F: Future<Output = ()>>(requests: u64, work: fn(Netlink) -> F) -> bool {
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

/// At the moment of the cut every address is somewhere; after the next call all is as it should be. A
/// DEL ends what was begun, in its `direction`.
fn is_repaired(before: &Before, next: Next, direction: Next, when: &str) {
    let meanwhile = network();
    let inet = |line: &&String| line.starts_with("eth0 inet");
    for line in before.network.iter().filter(inet) {
        let address = line.split(' ').nth(2).unwrap();
        let somewhere = |other: &String| other.contains(&format!(" {address} "));
        assert!(meanwhile.iter().any(somewhere), "{when}: {address} is lost");
    }
    run(async {
        let netlink = netlink();
        match next {
            Next::Add => {
                let node = ensure(&netlink, &wanted()).await;
                let node = node.unwrap_or_else(|error| panic!("{when}: {error:?}"));
                assert_eq!(node.gateway, Some([10, 0, 0, 1].into()), "{when}");
            }
            Next::Delete => recover(&netlink).await,
            Next::Teardown => {
                let left = leave(&netlink, "azure0", false).await;
                left.unwrap_or_else(|error| panic!("{when}: {error:?}"));
            }
        }
    });
    let is_on_bridge = match (next, direction) {
        (Next::Add, _) => true,
        (Next::Teardown, _) => false,
        // Where nothing was written down, nothing was begun.
        (Next::Delete, _) => ip("link show eth0").contains("master azure0"),
    };
    if is_on_bridge {
        let expected = moved(&before.network, "eth0", "azure0");
        assert_same(&network(), &expected, when);
        assert!(ip("link show eth0").contains("master azure0"), "{when}");
    } else {
        let volatile = |line: &String| line.contains("tentative") || line.contains("fe80::");
        let lasting = |lines: Vec<String>| lines.into_iter().filter(|l| !volatile(l)).collect();
        let (after, before): (Vec<_>, Vec<_>) =
            (lasting(everything()), lasting(before.everything.clone()));
        assert_same(&after, &before, when);
    }
}
