//! `cargo xtask ci`: what `.ci/run` runs, and what a change must pass on the author's own machine.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{build_ebpf, demo, lint, setup, tally::Tally, test};

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
        step("test", || {
            tests = test::stages(&test::Options::default())?;
            if tests.failed > 0 {
                bail!("{} failed", tests.failed);
            }
            Ok(())
        }),
    ];
    steps.extend(demos().map(|options| step(&options.to_string(), || demo::main(&options))));

    println!("\n{:<44}{:>9}", "step", "seconds");
    for Step { name, passed, time } in &steps {
        let word = if *passed { "" } else { "  FAILED" };
        println!("{name:<44}{:>9.1}{word}", time.as_secs_f32());
    }
    let failed = steps.iter().filter(|step| !step.passed).count();
    // One line for everything: each test, and each of the other steps as one.
    let others = steps
        .iter()
        .filter(|step| step.name != "test" || tests == Tally::default());
    let total = [tests]
        .into_iter()
        .chain(others.map(|step| Tally::one(step.passed)))
        .sum::<Tally>();
    println!("\n{total}");
    if failed > 0 {
        bail!("{failed} of {} steps failed", steps.len());
    }
    Ok(())
}

/// Both tiers and both ways to attach, with one pod and with the default number of a node.
fn demos() -> impl Iterator<Item = demo::Options> {
    let demo = |datapath: &str, cls_bpf, pods| demo::Options {
        datapath: Some(datapath.to_owned()),
        pods,
        cls_bpf,
        keep: false,
    };
    [
        demo("ebpf", false, None),
        demo("netfilter", false, None),
        demo("ebpf", true, None),
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
