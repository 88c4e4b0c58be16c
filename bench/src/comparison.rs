//! Subjects beside one another: a VM for each, and rounds in which each of them is measured once, in changing order, so that what
//! the machine does meanwhile meets all of them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use azure_vnet_testbed::Azure;
use indicatif::ProgressBar;

use crate::node::Node;
use crate::packets::Floor;
use crate::series::Series;
use crate::servers::Servers;
use crate::variant::{Subject, Variant};
use crate::work::{Figure, Work};

/// What was measured, subject by subject.
pub struct Comparison {
    /// What it is called in the report.
    pub title: &'static str,
    pub rows: Vec<Row>,
    /// What figures were measured in multiples of: the sender and the devices before the node, or the first subject.
    pub yardsticks: BTreeMap<Figure, Series>,
    pub rounds: usize,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

pub struct Row {
    pub subject: Subject,
    /// Live flows that there really were.
    pub flows: u32,
    pub figures: BTreeMap<Figure, Series>,
}

impl Comparison {
    /// The row of a variant with the least on its node.
    pub fn row(&self, variant: Variant) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject.variant == variant)
    }

    /// Sets everything up, measures, and takes it down.
    pub fn run(
        title: &'static str,
        subjects: &[Subject],
        works: &[Work],
        rounds: usize,
        progress: &ProgressBar,
    ) -> Result<Self> {
        let vms = u8::try_from(subjects.len() + 1).context("too many subjects")?;
        let pool = subjects.iter().map(|subject| subject.scale.pods).max();
        progress.set_message(format!("{title}: setting up"));
        let mut azure = Azure::builder()
            .vms(vms)
            .pool(pool.unwrap_or(1).max(2))
            .build()?;
        for (subject, vm) in subjects.iter().zip(&mut azure.vms) {
            if matches!(subject.variant, Variant::Ebpf { tcx: false, .. }) {
                vm.set_environment("AZURE_VNET_FORCE_CLS_BPF", "1");
            }
        }
        stop_watching(&azure)?;
        let servers = Servers::start(&azure)?;
        let floor = Floor::set_up(&azure, subjects.len())?;
        let mut missing = Vec::new();
        let mut nodes = Vec::new();
        let mut rows = Vec::new();
        for (number, subject) in subjects.iter().enumerate() {
            match Node::set_up(&azure, number, *subject, &servers) {
                Ok(node) => {
                    rows.push(Row {
                        subject: *subject,
                        flows: node.flows,
                        figures: BTreeMap::new(),
                    });
                    nodes.push((number, node));
                }
                Err(error) => missing.push(format!(
                    "{} ({}): {error:#}",
                    subject.variant, subject.scale
                )),
            }
        }
        let mut this = Self {
            title,
            rows,
            yardsticks: BTreeMap::new(),
            rounds,
            missing,
        };
        progress.set_message(title);
        progress.inc_length((rounds * works.len() * nodes.len()) as u64);
        for round in 0..rounds {
            this.round(round, &azure, &servers, &floor, &nodes, works, progress);
        }
        this.say_multiples_in_units();
        Ok(this)
    }

    /// What was measured in multiples of something is said in the unit of that, at its median.
    fn say_multiples_in_units(&mut self) {
        for row in &mut self.rows {
            for (figure, series) in &mut row.figures {
                if let Some(yardstick) = self.yardsticks.get(figure) {
                    let unit = yardstick.median();
                    *series = series.values().iter().map(|value| value * unit).collect();
                }
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "everything that stands during a run"
    )]
    fn round(
        &mut self,
        round: usize,
        azure: &Azure,
        servers: &Servers,
        floor: &Floor<'_>,
        nodes: &[(usize, Node<'_>)],
        works: &[Work],
        progress: &ProgressBar,
    ) {
        for work in works {
            for turn in 0..nodes.len() {
                let place = (turn + round) % nodes.len();
                let (number, node) = &nodes[place];
                let subject = (*number, node);
                match work.sample(azure, subject, &nodes[0].1, servers, floor) {
                    Ok(sample) => {
                        for measured in sample {
                            let figures = &mut self.rows[place].figures;
                            let series = figures.entry(measured.figure).or_default();
                            series.push(measured.value);
                            if let Some(yardstick) = measured.yardstick {
                                let all = self.yardsticks.entry(measured.figure);
                                all.or_default().push(yardstick);
                            }
                        }
                    }
                    Err(error) => {
                        self.note(format!("{work:?} of {}: {error:#}", node.subject.variant));
                    }
                }
                progress.inc(1);
            }
        }
    }

    /// Once for each reason.
    fn note(&mut self, reason: String) {
        if !self.missing.contains(&reason) {
            self.missing.push(reason);
        }
    }
}

/// Takes away what the simulated fabric counts and drops: Azure does that elsewhere, and here it would cost the CPU that is measured, more for
/// one way than for another.
fn stop_watching(azure: &Azure) -> Result<()> {
    let nft = azure.fabric.namespace().program("nft")?;
    let tables = "delete table netdev fabric\ndelete table ip leaks\n";
    nft.args(["-f", "-"]).stdin(tables).checked()?;
    Ok(())
}
