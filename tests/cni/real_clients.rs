//! L. Real clients: rows that need a runtime, checked by the tests of the runtimes.

use crate::row::{Row, Test, Versions};

const RUNTIMES: Test = Test::Elsewhere("tests/runtime");

#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    Row { number: 147, versions: Versions::From("0.3.1"), level: "R", check: "cnitool add, check, del, del again, gc (no list, so error 7 by D7), status", test: RUNTIMES },
    Row { number: 148, versions: Versions::From("0.3.1"), level: "R", check: "containerd CRI: Run, Status shows the IP, Stop, Stop, Remove", test: RUNTIMES },
    Row { number: 149, versions: Versions::From("0.3.1"), level: "R", check: "containerd CRI: a chained plugin after ours fails ADD", test: RUNTIMES },
    Row { number: 150, versions: Versions::From("1.0.0"), level: "R", check: "containerd CRI: a chained plugin before us in DEL order fails twice, then works", test: RUNTIMES },
    Row { number: 151, versions: Versions::From("1.0.0"), level: "R", check: "containerd CRI: namespace unmounted before Stop", test: RUNTIMES },
    Row { number: 152, versions: Versions::From("1.0.0"), level: "R", check: "containerd CRI: 30 pods created and removed in parallel", test: RUNTIMES },
    Row { number: 153, versions: Versions::From("0.4.0"), level: "R", check: "CRI-O's sequence: ADD, CHECK, CHECK, DEL with the cached configuration", test: RUNTIMES },
];
