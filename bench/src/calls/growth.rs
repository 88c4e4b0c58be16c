//! How much longer a call takes on a node with many pods. Two nodes of one kind at a time, with few pods and with many, in turn: the
//! kernel walks over some things of all network namespaces, so beside four full nodes a call costs what it costs on none.

use std::fmt::Write as _;

use anyhow::Result;
use azure_vnet_testbed::Azure;
use indicatif::ProgressBar;

use super::candidate::{Candidate, Kind};
use super::{Row, timed};
use crate::plot::number;

/// One row for each kind and number of pods; none where the two numbers are one.
pub fn measure([few, many]: [usize; 2], rounds: usize, progress: &ProgressBar) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if few == many {
        return Ok(rows);
    }
    progress.inc_length((Kind::ALL.len() * rounds) as u64);
    for kind in Kind::ALL {
        let azure = Azure::builder().vms(2).pool(250).build()?;
        let nodes = azure
            .vms
            .iter()
            .zip([few, many])
            .map(|(vm, pods)| {
                let candidate = Candidate::new(kind, vm)?;
                (0..pods).try_for_each(|number| candidate.stand(number))?;
                let load = format!("{pods} pods, no other node");
                let row = Row::new(&candidate, load);
                Ok((candidate, row))
            })
            .collect::<Result<Vec<_>>>();
        let mut nodes = nodes?;
        for round in 0..rounds {
            for (candidate, row) in &mut nodes {
                timed(candidate, &format!("round{round}"), row)?;
            }
            progress.inc(1);
        }
        rows.extend(nodes.into_iter().map(|(_, row)| row));
    }
    Ok(rows)
}

pub fn markdown(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nThe same on a node with few pods and on one with many, in turn, and no others in the kernel (above there is one of each \
         plugin, and some of what the kernel walks over is of all network namespaces):\n\n\
         | plugin | pods | ADD p50 | DEL p50 | ADD × few | DEL × few |\n|---|---|---:|---:|---:|---:|\n",
    );
    for pair in rows.chunks(2) {
        for row in pair {
            let times = |of: fn(&Row) -> &crate::series::Series| {
                format!("{:.2}", of(row).times(of(&pair[0])))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.candidate,
                row.load,
                number(row.add.median()),
                number(row.del.median()),
                times(|row| &row.add),
                times(|row| &row.del),
            );
        }
    }
    text
}
