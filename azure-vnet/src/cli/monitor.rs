//! `azure-vnet monitor`: packets that the programs drop, and flows that begin, as they come.

mod line;

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::output::{self, Output};
use super::{Failure, Outcome, find_pod};
use crate::datapath::watch::Watch;
use crate::datapath::{Record, Tier};
use line::{Lines, Told};

/// What to show, and for how long.
#[derive(Args)]
pub struct Options {
    /// Only drops.
    #[arg(long)]
    drops: bool,
    /// Only of this pod: address, name, namespace/name, or beginning of the container ID.
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Ends after so many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Ends after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// How often the kernel is told that somebody still watches.
const BEAT: Duration = Duration::from_secs(1);

/// Prints events until interrupted, or until there were enough.
pub fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let failed = |error: crate::datapath::EbpfError| Failure::of(&error);
    let pod = options
        .pod
        .as_deref()
        .map(find_pod::one)
        .transpose()?
        .map(|pod| pod.address);
    let mut watches = Vec::new();
    for (bridge, record) in Record::all() {
        if matches!(record.tier, Tier::Ebpf(_)) {
            watches.push((Watch::open(&bridge).map_err(failed)?, Lines::of(&bridge)));
        }
    }
    if watches.is_empty() {
        return Err(Failure::new(
            "no bridge has the eBPF tier, which alone has events (azure-vnet status says why)",
        ));
    }
    output::complain("watching; Ctrl-C ends it");
    let end = options
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut left = options.count.unwrap_or(u64::MAX);
    let mut next_beat = Instant::now();
    while left > 0 && end.is_none_or(|end| Instant::now() < end) {
        if Instant::now() >= next_beat {
            for (watch, lines) in &mut watches {
                watch.renew().map_err(failed)?;
                lines.refresh();
            }
            next_beat = Instant::now() + BEAT;
        }
        wait(&watches, next_beat);
        for (watch, lines) in &mut watches {
            while let Some(event) = watch.take() {
                let told = lines.tell(&event);
                if (options.drops && !told.dropped) || !is_of(&told, pod) {
                    continue;
                }
                if !output.print(&told, true)? {
                    return Ok(Outcome::Fine);
                }
                left -= 1;
                if left == 0 {
                    return Ok(Outcome::Fine);
                }
            }
        }
    }
    Ok(Outcome::Fine)
}

fn is_of(told: &Told, pod: Option<std::net::Ipv4Addr>) -> bool {
    pod.is_none_or(|pod| told.pod == Some(pod))
}

/// Until there is something to read, or it is time for the next beat.
fn wait(watches: &[(Watch, Lines)], until: Instant) {
    let mut fds: Vec<PollFd<'_>> = watches
        .iter()
        .map(|(watch, _)| PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN))
        .collect();
    let limit = until.saturating_duration_since(Instant::now());
    // Interrupted or not, the next look tells.
    let _ = poll(&mut fds, Timespec::try_from(limit).ok().as_ref());
}
