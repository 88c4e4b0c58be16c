//! Pods come and go for a long time, many at once, and one call in ten is killed at a random moment: afterwards nothing is left, and
//! while it goes on every pod that was added works.
//!
//! `AZURE_VNET_ENDURANCE_PAIRS` sets how many ADD/DEL pairs there are; the number is printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

#[path = "attachment.rs"]
#[allow(dead_code, reason = "the conformance program uses the rest")]
mod attachment;
#[path = "call.rs"]
#[allow(dead_code, reason = "the conformance program uses the rest")]
mod call;
#[path = "fixture.rs"]
#[allow(dead_code, reason = "the conformance program uses the rest")]
mod fixture;
#[path = "journal.rs"]
#[allow(dead_code, reason = "the conformance program uses the rest")]
mod journal;
#[path = "row.rs"]
#[allow(dead_code, reason = "the conformance program uses the rest")]
mod row;
#[path = "snapshot.rs"]
#[allow(dead_code, reason = "the conformance program uses the rest")]
mod snapshot;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::REPORT_PORT;
use socket2::Type;

use attachment::Attachment;
use fixture::{Node, Subject};
use row::Verdict;

const PAIRS: usize = 1000;
const PAIRS_VARIABLE: &str = "AZURE_VNET_ENDURANCE_PAIRS";
/// Pairs at work at the same time.
const AT_ONCE: usize = 20;
/// One ADD or DEL in this many is killed.
const KILLED: u64 = 10;
/// An ADD takes some ten milliseconds, and several times that on a busy machine: kills fall into every part of it.
const LATEST_KILL: u64 = 120_000;

#[test]
fn nothing_leaks_and_every_survivor_works() {
    endure(Subject::Ebpf);
}

fn endure(subject: Subject) {
    let pairs = std::env::var(PAIRS_VARIABLE)
        .map_or(PAIRS, |text| text.parse().expect("a number of pairs"));
    let node = Node::boot(subject, &Arc::default()).unwrap();
    let before = node.snapshot();
    let tally = Tally::default();
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < pairs {
                    if let Err(unmet) = pair(&node, &tally) {
                        tally.failures.lock().unwrap().push(format!("{unmet:?}"));
                    }
                }
            });
        }
    });
    let killed = tally.killed.load(Ordering::Relaxed);
    println!(
        "{pairs} pairs, {AT_ONCE} at once, in {:.1} s; {killed} calls killed while they ran",
        start.elapsed().as_secs_f32()
    );
    let failures = tally.failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} pairs failed, the first: {}",
        failures.len(),
        failures[0]
    );
    assert!(
        pairs < 100 || killed > 0,
        "no call was ever killed while it ran"
    );
    before.unchanged(&node).unwrap();
    let verdicts = node.azure.fabric.verdicts(0).unwrap();
    assert_eq!(
        verdicts.spoofed(),
        0,
        "frames that the fabric's anti-spoofing dropped: {verdicts:?}"
    );
    assert_eq!(
        node.azure.fabric.leaked().unwrap(),
        0,
        "packets that left the range with a pod's address"
    );
}

#[derive(Default)]
struct Tally {
    killed: AtomicUsize,
    failures: Mutex<Vec<String>>,
    /// Who has which address now: nobody may get one that another pod has.
    held: Mutex<BTreeMap<Ipv4Addr, String>>,
}

/// A pod's life: ADD, some traffic, DEL; some calls are killed, and then follows what a runtime does: DEL, until it succeeds.
fn pair(node: &Node, tally: &Tally) -> Verdict {
    let attachment = node.attach(node.newest());
    if chance() {
        kill(&attachment, "ADD", tally);
        return attachment.del();
    }
    let result = attachment.add()?;
    let address: Ipv4Addr = result["ips"][0]["address"]
        .as_str()
        .and_then(|cidr| cidr.split('/').next()?.parse().ok())
        .expect("an address");
    let other = tally
        .held
        .lock()
        .unwrap()
        .insert(address, attachment.id.clone());
    row::expect(
        other.is_none(),
        format!("{address} for one pod"),
        format!("{other:?} has it too"),
    )?;
    works(node, &attachment)?;
    attachment.check(&result).silent()?;
    tally.held.lock().unwrap().remove(&address);
    if chance() {
        kill(&attachment, "DEL", tally);
    }
    attachment.del()
}

fn works(node: &Node, attachment: &Attachment<'_>) -> Verdict {
    let to = SocketAddrV4::new(INTERNET[0], REPORT_PORT);
    let expected = format!("the internet sees {}", node.vm().nic.primary);
    match ask(Type::STREAM, attachment.sandbox.namespace(), None, to) {
        Ok(seen) => row::expect(seen == node.vm().nic.primary, expected, seen),
        Err(error) => Err(row::failed(expected, error)),
    }
}

fn kill(attachment: &Attachment<'_>, command: &str, tally: &Tally) {
    let delay = Duration::from_micros(random() % LATEST_KILL);
    if attachment.call(command).run_and_kill(delay) {
        tally.killed.fetch_add(1, Ordering::Relaxed);
    }
}

fn chance() -> bool {
    random().is_multiple_of(KILLED)
}

/// splitmix64: the same numbers in every run, though threads take them in another order.
fn random() -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(1);
    let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
