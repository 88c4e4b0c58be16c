//! What a runtime waits for: one plugin's ADD and DEL, from its start to its end, beside the reference plugins.

mod bare;
mod candidate;
mod growth;
mod traced;

use std::fmt::Write as _;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use azure_vnet_testbed::{Azure, libcni};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::plot::number;
use crate::report::{Part, series_json};
use crate::series::Series;
use bare::Bare;
use candidate::{Candidate, Kind};

pub use traced::run_and_print_peak_rss;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rounds with each number of standing pods.
    pub rounds: usize,
    /// Pods that a node has all the time.
    pub standing: &'static [usize],
    /// Calls at the same moment.
    pub parallel: &'static [usize],
    /// Rounds of those.
    pub parallel_rounds: usize,
}

/// Times of one candidate under one load, in milliseconds.
struct Row {
    candidate: String,
    load: String,
    add: Series,
    del: Series,
}

/// Sequential rounds, then one call of each kind under a magnifying glass, then parallel rounds, then each kind by itself.
pub fn measure(extent: Extent, progress: &ProgressBar) -> Result<Part> {
    progress.set_message("CNI calls");
    let steps =
        extent.standing.len() * extent.rounds + extent.parallel.len() * extent.parallel_rounds;
    progress.inc_length(steps as u64);
    let kinds = Kind::ALL;
    let azure = Azure::builder()
        .vms(u8::try_from(kinds.len())?)
        .pool(250)
        .build()?;
    let candidates = kinds
        .iter()
        .zip(&azure.vms)
        .map(|(kind, vm)| Candidate::new(*kind, vm))
        .collect::<Result<Vec<_>>>()?;

    let bare = Bare::new(candidates[0].vm)?;
    let mut rows = Vec::new();
    let mut standing = 0;
    for pods in extent.standing {
        for candidate in &candidates {
            for number in standing..*pods {
                candidate.stand(number)?;
            }
        }
        standing = *pods;
        rows.extend(sequential(
            &candidates,
            &bare,
            *pods,
            extent.rounds,
            progress,
        )?);
    }
    let traced = candidates
        .iter()
        .map(traced::calls)
        .collect::<Result<Vec<Value>>>()?;
    for candidate in &candidates {
        for number in 0..standing {
            candidate.leave(number)?;
        }
    }
    for calls in extent.parallel {
        rows.extend(parallel(
            &candidates,
            *calls,
            extent.parallel_rounds,
            progress,
        )?);
    }
    drop(candidates);
    drop(azure);
    let few_and_many = [extent.standing.first(), extent.standing.last()]
        .map(|pods| pods.copied().unwrap_or_default());
    let growth = growth::measure(few_and_many, extent.rounds, progress)?;
    Ok(part(&rows, &growth, &traced))
}

fn sequential(
    candidates: &[Candidate<'_>],
    bare: &Bare<'_>,
    pods: usize,
    rounds: usize,
    progress: &ProgressBar,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = candidates
        .iter()
        .map(|candidate| Row::new(candidate, format!("{pods} pods")))
        .collect();
    let mut pairs = Bare::row(format!("{pods} pods"));
    for round in 0..rounds {
        for turn in 0..candidates.len() {
            let place = (turn + round) % candidates.len();
            timed(
                &candidates[place],
                &format!("round{round}"),
                &mut rows[place],
            )?;
        }
        bare.timed(&mut pairs)?;
        progress.inc(1);
    }
    rows.push(pairs);
    Ok(rows)
}

/// One ADD and one DEL.
fn timed(candidate: &Candidate<'_>, container_id: &str, row: &mut Row) -> Result<()> {
    let attachment = Candidate::attachment(container_id);
    let _sandbox = candidate.vm.new_sandbox(&attachment.netns)?;
    let start = Instant::now();
    libcni::add(candidate.vm, &candidate.list, &attachment)?;
    row.add.push(start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    libcni::del(candidate.vm, &candidate.list, &attachment)?;
    row.del.push(start.elapsed().as_secs_f64() * 1e3);
    Ok(candidate.vm.remove_sandbox(&attachment.netns)?)
}

/// The time until the last of so many calls has ended.
fn parallel(
    candidates: &[Candidate<'_>],
    calls: usize,
    rounds: usize,
    progress: &ProgressBar,
) -> Result<Vec<Row>> {
    let load = |candidate: &Candidate<'_>| Row::new(candidate, format!("all of {calls} at once"));
    let mut rows: Vec<Row> = candidates.iter().map(load).collect();
    for round in 0..rounds {
        for turn in 0..candidates.len() {
            let place = (turn + round) % candidates.len();
            let candidate = &candidates[place];
            let attachments: Vec<_> = (0..calls)
                .map(|number| Candidate::attachment(&format!("p{round}x{number}")))
                .collect();
            let sandboxes = attachments
                .iter()
                .map(|attachment| candidate.vm.new_sandbox(&attachment.netns))
                .collect::<Result<Vec<_>, _>>()?;
            rows[place].add.push(at_once(&attachments, |attachment| {
                libcni::add(candidate.vm, &candidate.list, attachment).map(drop)
            })?);
            rows[place].del.push(at_once(&attachments, |attachment| {
                libcni::del(candidate.vm, &candidate.list, attachment)
            })?);
            drop(sandboxes);
            for attachment in &attachments {
                candidate.vm.remove_sandbox(&attachment.netns)?;
            }
        }
        progress.inc(1);
    }
    Ok(rows)
}

fn at_once<T: Sync>(
    items: &[T],
    call: impl Fn(&T) -> Result<(), libcni::Error> + Sync,
) -> Result<f64> {
    let start = Instant::now();
    thread::scope(|scope| {
        let call = &call;
        let calls: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(move || call(item)))
            .collect();
        calls.into_iter().try_for_each(|call| {
            call.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
    .context("one of many calls at once")?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

impl Row {
    fn new(candidate: &Candidate<'_>, load: String) -> Self {
        Self {
            candidate: candidate.kind.to_string(),
            load,
            add: Series::default(),
            del: Series::default(),
        }
    }
}

fn part(rows: &[Row], growth: &[Row], traced: &[Value]) -> Part {
    let mut text = String::from(
        "## CNI calls\n\nFrom the start of the plugin to its end, in milliseconds; release builds. The machine's own share (fork, \
         pipes) is in all of them. × reference is the median over the rounds, in each of which every plugin has its turn.\n\n| load | plugin | ADD p50 | p95 | p99 | DEL p50 | p95 | p99 | ADD × reference | DEL × reference |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let reference = rows
            .iter()
            .find(|other| other.load == row.load && other.candidate == Kind::Reference.to_string());
        let ratio = |of: fn(&Row) -> &Series| {
            reference.map_or("-".to_owned(), |reference| {
                format!("{:.2}", of(row).times(of(reference)))
            })
        };
        let figures: Vec<String> = [&row.add, &row.del]
            .iter()
            .flat_map(|series| [0.5, 0.95, 0.99].map(|at| number(series.quantile(at))))
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.load,
            row.candidate,
            figures.join(" | "),
            ratio(|row| &row.add),
            ratio(|row| &row.del),
        );
    }
    text.push_str(&growth::markdown(growth));
    text.push_str(&traced::markdown(traced));
    let rows: Vec<Value> = rows
        .iter()
        .chain(growth)
        .map(|row| {
            json!({
                "plugin": row.candidate, "load": row.load, "add_ms": series_json(&row.add), "del_ms": series_json(&row.del),
            })
        })
        .collect();
    Part {
        key: "calls",
        markdown: text,
        json: json!({ "times": rows, "traced": traced }),
    }
}
