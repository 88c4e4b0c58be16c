//! What is chained behind us, as far as the datapath has to know: whether a plugin wants the queueing discipline of the host veth for
//! itself. What a plugin is given says nothing about the others of its list; the runtime's directory does.

use std::ffi::OsStr;
use std::path::Path;

use azure_vnet_cni::json;
use serde::Deserialize;

/// Where runtimes look for lists, unless they are told otherwise.
const DIRECTORY: &str = "/etc/cni/net.d";

/// Plugins that are known to leave the ingress queueing discipline alone. `bandwidth` makes one.
const HARMLESS: [&str; 6] = [
    "azure-vnet",
    "portmap",
    "tuning",
    "firewall",
    "sbr",
    "loopback",
];

/// Bytes of a list of plugins.
const LARGEST: u64 = 1 << 20;

#[derive(Deserialize)]
struct List {
    name: String,
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
struct Plugin {
    #[serde(rename = "type")]
    kind: String,
}

/// Whether nobody but us hangs anything on the ingress of the host veths of this network. A network whose list is not found, or has
/// a plugin that is not known, is one where somebody may.
pub fn ingress_is_ours(network: &str) -> bool {
    ingress_is_ours_in(Path::new(DIRECTORY), network)
}

fn ingress_is_ours_in(directory: &Path, network: &str) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let texts = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some(OsStr::new("conflist")))
        .filter_map(|path| azure_vnet_files::read(&path, LARGEST).ok());
    let mut lists = texts
        .filter_map(|text| json::from_slice::<List>(&text).ok())
        .filter(|list| list.name == network)
        .peekable();
    let harmless = |plugin: &Plugin| HARMLESS.contains(&plugin.kind.as_str());
    // Two files may have one name; the runtime takes either.
    lists.peek().is_some() && lists.all(|list| list.plugins.iter().all(harmless))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn with(lists: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in lists {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        directory
    }

    const HARMLESS_LIST: &str =
        r#"{"name":"azure","plugins":[{"type":"azure-vnet"},{"type":"portmap","snat":true}]}"#;
    const SHAPED: &str =
        r#"{"name":"azure","plugins":[{"type":"azure-vnet"},{"type":"bandwidth"}]}"#;

    #[test]
    fn a_list_of_known_plugins_leaves_the_place_to_us() {
        let directory = with(&[("10-azure.conflist", HARMLESS_LIST)]);
        assert!(ingress_is_ours_in(directory.path(), "azure"));
    }

    #[test]
    fn bandwidth_or_a_plugin_that_nobody_knows_may_take_it() {
        for list in [SHAPED, &SHAPED.replace("bandwidth", "cilium-cni")] {
            let directory = with(&[("10-azure.conflist", list)]);
            assert!(!ingress_is_ours_in(directory.path(), "azure"), "{list}");
        }
    }

    #[test]
    fn of_two_lists_of_the_name_the_worse_counts() {
        let directory = with(&[("10.conflist", HARMLESS_LIST), ("20.conflist", SHAPED)]);
        assert!(!ingress_is_ours_in(directory.path(), "azure"));
    }

    #[test]
    fn a_network_that_is_not_found_is_not_known_to_be_harmless() {
        let directory = with(&[("10.conflist", HARMLESS_LIST), ("11.conflist", "{")]);
        assert!(!ingress_is_ours_in(directory.path(), "other"));
        assert!(!ingress_is_ours_in(Path::new("/nowhere"), "azure"));
        let not_a_list = with(&[("10.conf", HARMLESS_LIST)]);
        assert!(!ingress_is_ours_in(not_a_list.path(), "azure"));
    }
}
