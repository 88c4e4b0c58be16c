//! The versions of the CNI specification and what differs between them.
//!
//! Everything version-dependent in this crate asks [`TABLE`]; nothing compares version numbers by hand. To
//! support another version, give it a row there and add it to [`SUPPORTED`].

use std::fmt;

/// A released version of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is the number it spells")]
pub enum Version {
    V0_1_0,
    V0_2_0,
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

/// The versions both plugins accept in a configuration and announce in VERSION, oldest first.
pub const SUPPORTED: [Version; 7] = [
    Version::V0_1_0,
    Version::V0_2_0,
    Version::V0_3_0,
    Version::V0_3_1,
    Version::V0_4_0,
    Version::V1_0_0,
    Version::V1_1_0,
];

/// How a version spells the addresses of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// One `ip4` and one `ip6` object, each with its own routes; no interfaces.
    PerFamily,
    /// A list `ips` whose entries carry `"version": "4"` or `"6"`.
    ListWithFamily,
    /// A list `ips` without that key.
    List,
}

/// What one version of the specification has that another has not.
#[derive(Clone, Copy, Debug)]
struct Features {
    version: Version,
    text: &'static str,
    addresses: Addresses,
    /// `dns` is printed even when it is empty: optional only since 0.4.0 on paper and since 1.0.0 in libcni.
    dns_always: bool,
    /// `interfaces[]` may carry `mtu`, `socketPath` and `pciID`.
    interface_details: bool,
    commands: Commands,
}

/// The commands a version has, beside ADD, DEL and VERSION.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Commands {
    Basic,
    WithCheck,
    WithStatusAndGc,
}

#[rustfmt::skip]
const TABLE: [Features; SUPPORTED.len()] = {
    use Addresses::{List, ListWithFamily, PerFamily};
    use Commands::{Basic, WithCheck, WithStatusAndGc};
    use Version::{V0_1_0, V0_2_0, V0_3_0, V0_3_1, V0_4_0, V1_0_0, V1_1_0};
    [
        Features { version: V0_1_0, text: "0.1.0", addresses: PerFamily,      dns_always: true,  interface_details: false, commands: Basic },
        Features { version: V0_2_0, text: "0.2.0", addresses: PerFamily,      dns_always: true,  interface_details: false, commands: Basic },
        Features { version: V0_3_0, text: "0.3.0", addresses: ListWithFamily, dns_always: true,  interface_details: false, commands: Basic },
        Features { version: V0_3_1, text: "0.3.1", addresses: ListWithFamily, dns_always: true,  interface_details: false, commands: Basic },
        Features { version: V0_4_0, text: "0.4.0", addresses: ListWithFamily, dns_always: true,  interface_details: false, commands: WithCheck },
        Features { version: V1_0_0, text: "1.0.0", addresses: List,           dns_always: false, interface_details: false, commands: WithCheck },
        Features { version: V1_1_0, text: "1.1.0", addresses: List,           dns_always: false, interface_details: true,  commands: WithStatusAndGc },
    ]
};

impl Version {
    /// What a configuration without `cniVersion` means, to libcni and to us.
    pub const WHEN_ABSENT: Version = Version::V0_1_0;

    /// The version spelled exactly so; no trimming, no `v`, no short forms.
    pub fn known(text: &str) -> Option<Version> {
        TABLE
            .iter()
            .find(|row| row.text == text)
            .map(|row| row.version)
    }

    /// What an error carries when the caller's version is unknown.
    pub const NEWEST: Version = SUPPORTED[SUPPORTED.len() - 1];

    /// The number, as it stands in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        self.features().text
    }

    /// How a result of this version spells addresses.
    pub fn addresses(self) -> Addresses {
        self.features().addresses
    }

    /// Whether `dns` is printed even when it is empty.
    pub fn dns_always(self) -> bool {
        self.features().dns_always
    }

    /// Whether `interfaces[]` may carry `mtu`, `socketPath` and `pciID`.
    pub fn interface_details(self) -> bool {
        self.features().interface_details
    }

    /// Whether the version has the CHECK command.
    pub fn has_check(self) -> bool {
        self.features().commands >= Commands::WithCheck
    }

    /// Whether the version has the STATUS and GC commands.
    pub fn has_status_and_gc(self) -> bool {
        self.features().commands >= Commands::WithStatusAndGc
    }

    fn features(self) -> &'static Features {
        &TABLE[self as usize]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// [`SUPPORTED`] as text, for messages.
pub(crate) fn supported_list() -> String {
    SUPPORTED.map(Version::as_str).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.version as usize, index, "{}", row.text);
            assert_eq!(Version::known(row.text), Some(row.version));
            assert_eq!(row.version.to_string(), row.text);
        }
    }

    #[test]
    fn supported_versions_ascend_without_repeats() {
        assert!(SUPPORTED.is_sorted_by(|a, b| a < b), "{SUPPORTED:?}");
        assert_eq!(
            supported_list(),
            "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        );
    }

    #[test]
    fn only_the_exact_spelling_counts() {
        for text in [
            "0.3", "1.0", "v0.3.1", "0.3.1 ", " 0.3.1", "abc", "", "0.5.0", "9.9.9", "1.2.0",
        ] {
            assert_eq!(Version::known(text), None, "{text:?}");
        }
    }

    #[test]
    fn each_command_begins_with_its_version() {
        assert!(!Version::V0_3_1.has_check() && Version::V0_4_0.has_check());
        assert!(!Version::V1_0_0.has_status_and_gc() && Version::V1_1_0.has_status_and_gc());
    }
}
