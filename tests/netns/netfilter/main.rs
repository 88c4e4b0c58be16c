//! The netfilter tier frame by frame: what the wall around each pod lets pass, and what the table of addresses does with it, by nft and
//! by iptables.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

mod addresses;
mod arp;
mod field;
mod frame;
mod wall;

/// Who writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nft,
    /// With ebtables.
    Iptables,
    /// Without it: there is no wall.
    IptablesAlone,
}

impl Way {
    /// Those that mean the same.
    const WALLED: [Self; 2] = [Self::Nft, Self::Iptables];

    /// Programs that are not there.
    fn hidden(self) -> &'static [(&'static str, Option<&'static str>)] {
        match self {
            Self::Nft => &[],
            Self::Iptables => &[("nft", None)],
            Self::IptablesAlone => &[
                ("nft", None),
                ("ebtables-restore", None),
                ("ebtables-save", None),
            ],
        }
    }
}
