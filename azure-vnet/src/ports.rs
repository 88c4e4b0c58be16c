//! Which ports masqueraded flows are sent from.
//!
//! They must not be ports that the node's own sockets get (`ip_local_port_range`), or a reply to
//! the node would be taken for one to a pod; nor `NodePorts`, which are for what comes in. Single ports in
//! between that others use are [`Reserved`].

mod bound;
mod reserved;

use std::ops::RangeInclusive;

pub use reserved::Reserved;

/// Kubernetes' `--service-node-port-range`, unless changed.
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;
/// What is taken if the node leaves it free: 19,760 ports for each remote address and port.
const PREFERRED: RangeInclusive<u16> = 10240..=29999;
/// Lower ports belong to services.
const LOWEST: u16 = 1024;
/// With fewer, a busy destination would soon be out of ports.
const FEWEST: u16 = 1024;

/// `masquerade.ports` as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// As many as the node leaves free.
    Auto,
    /// These.
    Range(RangeInclusive<u16>),
}

/// Why there is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither `auto` nor a range.
    #[error("\"{0}\" is neither \"auto\" nor a range such as \"10240-29999\", from 1024 up")]
    Syntax(String),
    /// The node's own sockets or `NodePorts` are in it.
    #[error("{}-{} overlaps {}-{} ({what})", range.start(), range.end(), taken.start(), taken.end())]
    Overlap {
        /// The range that was asked for.
        range: RangeInclusive<u16>,
        /// The range in the way.
        taken: RangeInclusive<u16>,
        /// Whose it is.
        what: &'static str,
    },
    /// The node's own sockets may have nearly all.
    #[error(
        "net.ipv4.ip_local_port_range and the NodePorts leave no 1024 ports in a row: make the former smaller (32768 60999 is the kernel's own)"
    )]
    NoneFree,
}

impl Ports {
    /// Reads the key; absent means `auto`.
    pub fn read(text: Option<&str>) -> Result<Self, Error> {
        let Some(text) = text.filter(|text| *text != "auto") else {
            return Ok(Self::Auto);
        };
        text.split_once('-')
            .and_then(|(first, last)| Some(first.trim().parse().ok()?..=last.trim().parse().ok()?))
            .filter(|range| !range.is_empty() && *range.start() >= LOWEST)
            .map(Self::Range)
            .ok_or_else(|| Error::Syntax(text.to_owned()))
    }

    /// The first and last port on a node whose sockets use `local`.
    pub fn choose(&self, local: &RangeInclusive<u16>) -> Result<(u16, u16), Error> {
        let taken = [
            (local.clone(), "net.ipv4.ip_local_port_range"),
            (NODE_PORTS, "NodePorts"),
        ];
        match self {
            Self::Range(range) => {
                match taken.into_iter().find(|(taken, _)| overlap(range, taken)) {
                    Some((taken, what)) => Err(Error::Overlap {
                        range: range.clone(),
                        taken,
                        what,
                    }),
                    None => Ok((*range.start(), *range.end())),
                }
            }
            Self::Auto if !overlap(&PREFERRED, local) => Ok((*PREFERRED.start(), *PREFERRED.end())),
            Self::Auto => widest_gap(local).ok_or(Error::NoneFree),
        }
    }

    /// The same where nothing is masqueraded: a range is written down, and no flow gets a port of it.
    pub fn choose_unused(&self, local: &RangeInclusive<u16>) -> (u16, u16) {
        self.choose(local)
            .unwrap_or((*PREFERRED.start(), *PREFERRED.end()))
    }
}

/// `net.ipv4.ip_local_port_range` of this node; the kernel's default where it cannot be read.
pub fn local_range() -> RangeInclusive<u16> {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| {
            let mut numbers = text.split_whitespace().map(str::parse);
            Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
        })
        .unwrap_or(32768..=60999)
}

fn overlap(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// The longest run of ports that neither the node's sockets nor `NodePorts` use.
fn widest_gap(local: &RangeInclusive<u16>) -> Option<(u16, u16)> {
    let mut taken = [local.clone(), NODE_PORTS];
    taken.sort_by_key(|range| *range.start());
    let mut next = LOWEST;
    let mut gaps = Vec::new();
    for range in taken {
        if *range.start() > next {
            gaps.push((next, range.start() - 1));
        }
        next = next.max(range.end().saturating_add(1));
    }
    gaps.push((next, u16::MAX));
    gaps.into_iter()
        .filter(|(first, last)| last.saturating_sub(*first) >= FEWEST - 1)
        .max_by_key(|(first, last)| last - first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_range_is_disjoint_from_the_kernels_default() {
        assert_eq!(Ports::Auto.choose(&(32768..=60999)), Ok((10240, 29999)));
    }

    #[test]
    fn auto_gives_way_to_a_wide_local_range() {
        assert_eq!(Ports::Auto.choose(&(15000..=60999)), Ok((1024, 14999)));
        assert_eq!(Ports::Auto.choose(&(1024..=40000)), Ok((40001, 65535)));
        assert_eq!(Ports::Auto.choose(&(1024..=65535)), Err(Error::NoneFree));
    }

    #[test]
    fn a_range_that_others_use_is_refused() {
        let ports = Ports::read(Some("20000-40000"));
        assert_eq!(ports, Ok(Ports::Range(20000..=40000)));
        let error = Ports::Range(20000..=40000).choose(&(32768..=60999));
        assert!(matches!(
            error,
            Err(Error::Overlap {
                what: "net.ipv4.ip_local_port_range",
                ..
            })
        ));
        let error = Ports::Range(29000..=31000).choose(&(32768..=60999));
        assert!(matches!(
            error,
            Err(Error::Overlap {
                what: "NodePorts",
                ..
            })
        ));
        assert_eq!(
            Ports::Range(61000..=65535).choose(&(32768..=60999)),
            Ok((61000, 65535))
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "x",
            "5-",
            "-5",
            "100-200",
            "3000-2000",
            "70000-80000",
            "2000",
        ] {
            assert!(Ports::read(Some(text)).is_err(), "{text}");
        }
    }
}
