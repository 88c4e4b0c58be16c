//! `cargo xtask test`: every test there is, as root, stage by stage. The first stage is `unit`; each
//! `[[test]]` target of the workspace is a stage of its name, so a new one needs no line here.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    architecture::Architecture,
    command::{cargo, is_root, run, run_lines},
    dist, earlier, plugins, setup,
    tally::Tally,
    workspace::Metadata,
};

const UNIT: &str = "unit";
/// The stages that install from archives, which have to be packed.
const INSTALLERS: [&str; 2] = ["install", "runtime"];
/// The environment variable that tells that stage where the archives are.
const DIST_DIR: &str = "AZURE_VNET_DIST";
/// Two versions of the same plugins, to upgrade and to go back.
const DIST_VERSIONS: [&str; 2] = ["v1.0.0", "v1.0.1"];
/// Stages that need what nobody wants on a machine for nothing: they run when they are asked for.
const EXTRAS: [Extra; 4] = [
    Extra {
        stage: "runtime",
        needs: "needs container runtimes (--runtimes installs them)",
        install: setup::runtimes,
    },
    Extra {
        stage: "kernels",
        needs: "needs qemu and Debian's kernels (--kernels installs them)",
        install: setup::kernels,
    },
    Extra {
        stage: "managers",
        needs: "needs mmdebstrap and v0.1.0 (--managers installs the one and builds the other)",
        install: managers,
    },
    Extra {
        stage: "takeover",
        needs: "builds v0.1.0 from the history first (--managers)",
        install: earlier::build,
    },
];
const STAGE_LIMIT: Duration = Duration::from_mins(12);

/// What to run.
#[derive(Args, Clone, Default)]
pub struct Options {
    /// Only this stage: unit, or the name of a [[test]] target; may be given more than once
    #[arg(long)]
    stage: Vec<String>,
    /// The stage `runtime` as well: installs containerd, docker and podman, and has them call the plugins
    #[arg(long)]
    runtimes: bool,
    /// The stage `kernels` as well: installs qemu, and boots Debian's kernels 5.10, 6.1 and 6.12 with the plugins
    #[arg(long)]
    kernels: bool,
    /// The stages `managers` and `takeover` as well: installs mmdebstrap, and boots Debian with the plugins and real network managers; builds
    /// v0.1.0 from the repository's history, and upgrades from it under traffic
    #[arg(long)]
    managers: bool,
    /// Arguments for the test programs, for example a part of a test's name
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// Every stage there is.
    pub fn everything() -> Self {
        Self {
            runtimes: true,
            kernels: true,
            managers: true,
            ..Self::default()
        }
    }

    fn asks_for(&self, extra: &Extra) -> bool {
        match extra.stage {
            "runtime" => self.runtimes,
            "kernels" => self.kernels,
            _ => self.managers,
        }
    }
}

struct Extra {
    stage: &'static str,
    needs: &'static str,
    install: fn() -> Result<()>,
}

/// What the stage `managers` needs; the systems it makes itself, and keeps.
fn managers() -> Result<()> {
    setup::managers()?;
    earlier::build()
}

struct Outcome {
    stage: String,
    tally: Tally,
    time: Duration,
    note: Option<String>,
}

impl Outcome {
    /// A stage that was not run is in the summary, too.
    fn left_out(extra: &Extra) -> Self {
        Self {
            stage: extra.stage.to_owned(),
            tally: Tally {
                skipped: 1,
                ..Tally::default()
            },
            time: Duration::ZERO,
            note: Some(format!("not run: {}", extra.needs)),
        }
    }
}

/// Runs the stages, prints the summary and the closing line; any failure is an error.
pub fn main(options: &Options) -> Result<()> {
    let tally = stages(options).inspect_err(|_| println!("{}", Tally::one(false)))?;
    println!("{tally}");
    tally.check()
}

/// Runs the stages and prints the summary.
pub fn stages(options: &Options) -> Result<Tally> {
    let stages = chosen(options)?;
    plugins::build()?;
    for extra in EXTRAS {
        if stages.iter().any(|stage| stage == extra.stage) {
            (extra.install)()?;
        }
    }
    let binaries = plugins::directory()?;
    if stages
        .iter()
        .any(|stage| INSTALLERS.contains(&stage.as_str()))
    {
        // Keys of this run alone.
        let keys = minisign::KeyPair::generate_unencrypted_keypair()?;
        for version in DIST_VERSIONS {
            let archive = dist::pack(
                Architecture::here()?,
                &binaries,
                version,
                &binaries.join("dist"),
            )?;
            dist::sign(&archive, &keys.sk)?;
        }
        let public = keys.pk.to_box()?.into_string();
        std::fs::write(binaries.join("dist/release.pub"), public)?;
    }
    // Compiled first, so that a stage's seconds are those of its tests; all at once when all are run.
    let mut compile = cargo();
    compile.args(["test", "--no-run", "--quiet"]);
    if !options.stage.is_empty() {
        compile.args(stages.iter().flat_map(|stage| targets(stage)));
    }
    run(&mut compile, Duration::from_mins(20))?;
    plugins::arrange()?;

    let mut outcomes = Vec::new();
    for stage in stages {
        println!("\n== {stage}");
        outcomes.push(run_stage(stage, &binaries, &options.arguments)?);
    }
    if options.stage.is_empty() {
        let left_out = EXTRAS.iter().filter(|extra| !options.asks_for(extra));
        outcomes.extend(left_out.map(Outcome::left_out));
    }
    print_summary(&outcomes);
    Ok(outcomes.iter().map(|outcome| outcome.tally).sum())
}

/// How cargo is told of a stage's test programs.
fn targets(stage: &str) -> [&str; 2] {
    match stage {
        UNIT => ["--lib", "--bins"],
        target => ["--test", target],
    }
}

/// The stages asked for, in the order in which they run; all when none was named.
fn chosen(options: &Options) -> Result<Vec<String>> {
    let named = &options.stage;
    let mut stages = vec![UNIT.to_owned()];
    stages.extend(Metadata::read()?.test_targets());
    if let Some(unknown) = named.iter().find(|name| !stages.contains(name)) {
        bail!(
            "no stage is called {unknown}; there are: {}",
            stages.join(", ")
        );
    }
    let wanted = |stage: &str| {
        let extra = EXTRAS.iter().find(|extra| extra.stage == stage);
        extra.is_none_or(|extra| options.asks_for(extra))
    };
    stages.retain(|stage| named.contains(stage) || (named.is_empty() && wanted(stage)));
    Ok(stages)
}

fn run_stage(stage: String, binaries: &Path, arguments: &[String]) -> Result<Outcome> {
    // Units are many and small, so only their dots are shown; a stage says each name.
    let selections: &[&[&str]] = match stage.as_str() {
        UNIT => &[&["--quiet", "--lib", "--bins"], &["--quiet", "--doc"]],
        target => &[&["--test", target]],
    };
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut success = true;
    for selection in selections {
        let mut test = cargo();
        test.args(["test", "--no-fail-fast"])
            .args(as_root())
            .args(*selection);
        test.arg("--")
            .args(arguments)
            .env(plugins::BIN_DIR, binaries)
            .env(DIST_DIR, binaries.join("dist"))
            .env(earlier::EARLIER, earlier::directory());
        let status = run_lines(&mut test, STAGE_LIMIT, |line| {
            println!("{line}");
            tally += Tally::from_libtest(line).unwrap_or_default();
        })?;
        success &= status.success();
    }
    let note = verdict(&mut tally, success, !arguments.is_empty());
    Ok(Outcome {
        stage,
        tally,
        time: start.elapsed(),
        note,
    })
}

/// Catches what libtest's own counts do not show, and counts it as one failure.
fn verdict(tally: &mut Tally, success: bool, filtered: bool) -> Option<String> {
    let note = if !success && tally.failed == 0 {
        "a test program crashed or did not build"
    } else if tally.passed + tally.failed == 0 && !filtered {
        "ran no test"
    } else {
        return None;
    };
    tally.failed += 1;
    Some(note.to_owned())
}

/// Has cargo start the test programs through sudo when we are not root ourselves: they are built as
/// the user, so nothing in `target` comes to belong to root.
fn as_root() -> &'static [&'static str] {
    if is_root() {
        return &[];
    }
    &[
        "--config",
        "target.'cfg(unix)'.runner=['sudo', '--preserve-env']",
    ]
}

fn print_summary(outcomes: &[Outcome]) {
    println!(
        "\n{:<14}{:>8}{:>8}{:>9}{:>10}",
        "stage", "passed", "failed", "skipped", "seconds"
    );
    for Outcome {
        stage,
        tally,
        time,
        note,
    } in outcomes
    {
        let Tally {
            passed,
            failed,
            skipped,
        } = tally;
        let seconds = time.as_secs_f32();
        let note = note.as_deref().unwrap_or_default();
        println!("{stage:<14}{passed:>8}{failed:>8}{skipped:>9}{seconds:>10.1}  {note}");
    }
    println!();
}
