//! `cargo xtask ci`: what `.ci/run` runs, and what a change must pass on the author's own machine.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::{build_ebpf, demo, dist, lint, plugins, setup, tally::Tally, test};

struct Step {
    name: String,
    passed: bool,
    time: Duration,
}

/// Runs every step, also after one that failed, and prints what ran and for how long.
pub fn main() -> Result<()> {
    let mut tests = Tally::default();
    let mut steps = vec![
        step("setup", setup::main),
        step("build-ebpf", build_ebpf::main),
        step("lint", lint::main),
        step("build", plugins::build),
        step("dist", || dist::main(&dist::Options::default())),
        step("test", || {
            tests = test::stages(&test::Options::everything())?;
            tests.check()
        }),
    ];
    let built = steps.iter().any(|step| step.name == "build" && step.passed);
    steps.extend(demos().map(|options| {
        step(&options.to_string(), || {
            ensure!(built, "not run: the build failed");
            demo::show(&options)
        })
    }));

    print_steps(&steps);
    // One closing line for everything: each test counts, and each of the steps counts as one.
    let steps: Tally = steps.iter().map(|step| Tally::one(step.passed)).sum();
    println!("{}", [steps, tests].into_iter().sum::<Tally>());
    steps.check()
}

fn print_steps(steps: &[Step]) {
    println!("\n{:<44}{:>9}", "step", "seconds");
    for Step { name, passed, time } in steps {
        let word = if *passed { "" } else { "  FAILED" };
        println!("{name:<44}{:>9.1}{word}", time.as_secs_f32());
    }
    println!();
}

/// Both tiers and both ways to attach, each with bridges that call iptables and without; then the tiers with one pod on each VM, and, with what is released, with the
/// default number of pods of a node.
fn demos() -> impl Iterator<Item = demo::Options> {
    let demo = |datapath: &str, cls_bpf, pods| demo::Options {
        datapath: Some(datapath.to_owned()),
        pods,
        cls_bpf,
        // Once is enough to see that every stop of it has an answer.
        tour: datapath == "ebpf" && pods.is_none(),
        released: pods == Some(30),
        bridge_nf: None,
        keep: false,
    };
    [
        demo("ebpf", false, None),
        demo("netfilter", false, None),
        demo("ebpf", true, None),
        demo("ebpf", false, Some(1)),
        demo("netfilter", false, Some(1)),
        demo("ebpf", false, Some(30)),
        demo("netfilter", false, Some(30)),
    ]
    .into_iter()
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Step {
    println!("\n=== {name}");
    let start = Instant::now();
    let result = work();
    if let Err(error) = &result {
        println!("{name}: {error:#}");
    }
    Step {
        name: name.to_owned(),
        passed: result.is_ok(),
        time: start.elapsed(),
    }
}
