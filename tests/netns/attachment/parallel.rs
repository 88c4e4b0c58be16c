//! Many calls at once, as when a node is drained and filled again.

use std::collections::BTreeSet;
use std::thread;

use crate::fixture::{Node, TIERS, address};

const PODS: usize = 30;

#[test]
fn thirty_come_and_go_at_once() {
    for tier in TIERS {
        // None is there before, so the node is set up in the middle of it.
        let node = Node::new(tier);
        let containers: Vec<_> = (0..PODS).map(|_| node.container()).collect();
        let results: Vec<_> = at_once(containers.iter().map(|container| || container.add()));
        let addresses: BTreeSet<_> = results.iter().map(address).collect();
        assert_eq!(addresses.len(), PODS);
        at_once(
            containers
                .iter()
                .zip(&results)
                .map(|(container, result)| || container.check(result).ok()),
        );

        // Half of them go while others come.
        let (going, staying) = containers.split_at(PODS / 2);
        let coming: Vec<_> = (0..5).map(|_| node.container()).collect();
        let come = thread::scope(|scope| {
            let going =
                scope.spawn(|| at_once(going.iter().map(|container| || container.del().ok())));
            let come: Vec<_> = at_once(coming.iter().map(|container| || container.add()));
            going.join().unwrap();
            come
        });
        let living = staying
            .iter()
            .zip(&results[PODS / 2..])
            .chain(coming.iter().zip(&come));
        for (container, result) in living {
            container.check(result).ok();
        }
        at_once(
            staying
                .iter()
                .chain(&coming)
                .map(|container| || container.del().ok()),
        );

        let all = containers.iter().chain(&coming);
        let names = all.flat_map(|container| [container.host_veth(), container.id.clone()]);
        let given = results
            .iter()
            .chain(&come)
            .map(|result| address(result).to_string());
        let names: Vec<_> = names.chain(given).collect();
        let mut left = node.traces().0;
        left.retain(|line| names.iter().any(|name| line.contains(name)));
        assert!(left.is_empty(), "{tier:?}: {left:?}");
    }
}

fn at_once<T: Send>(works: impl Iterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
    let works: Vec<_> = works.collect();
    thread::scope(|scope| {
        let threads: Vec<_> = works.into_iter().map(|work| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}
