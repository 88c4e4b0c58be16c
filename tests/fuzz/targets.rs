//! What is fuzzed: everything that comes from outside, as functions of bytes.
//!
//! A target panics when something is wrong, and otherwise says whether the input was accepted. It is shared by
//! the test stage beside it and by `cargo-fuzz/`.

use std::collections::BTreeSet;

use azure_vnet_cni::{CniError, Environment, Request, SUPPORTED, reply::Success};
use azure_vnet_ipam::source::{self, Found};

/// A configuration that is good for every command, for the targets that are about something else.
const CONFIGURATION: &[u8] =
    br#"{"cniVersion":"1.1.0","name":"n1","ipam":{"type":"azure-vnet-ipam"},
    "cni.dev/valid-attachments":[],"prevResult":{}}"#;

const COMMANDS: [&str; 5] = ["ADD", "DEL", "CHECK", "GC", "STATUS"];

/// Standard input, as every command and both plugins read it.
pub fn configuration(stdin: &[u8]) -> bool {
    let readings = COMMANDS.map(|command| match request(command, "", stdin) {
        Ok(request) => understood(&request),
        Err(error) => refused(&error, &[1, 6, 7]),
    });
    readings.contains(&true)
}

/// `CNI_ARGS` of an ADD; and what it asks for.
pub fn cni_args(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let Ok(Request::Add(add)) = request("ADD", text, CONFIGURATION).inspect_err(|error| {
        refused(error, &[4]);
    }) else {
        assert!(
            request("DEL", text, CONFIGURATION).is_ok(),
            "DEL ignores it"
        );
        return false;
    };
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let (key, _) = pair.split_once('=').expect("accepted, so it is a pair");
        assert!(add.args.get(key).is_some(), "{key:?} is lost");
    }
    let wishes = [add.requested_ips().map(drop), add.requested_mac().map(drop)];
    wishes.into_iter().all(|wish| match wish {
        Ok(()) => true,
        Err(error) => refused(&error, &[4]),
    })
}

/// The result of other plugins, under each version's label and none.
pub fn prev_result(json: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice(json) else {
        return false;
    };
    let mut accepted = false;
    for version in SUPPORTED {
        let Ok(result) = Success::from_json(&value, version) else {
            continue;
        };
        accepted = true;
        // What we print, we and others must read as the same; 0.1.0 and 0.2.0 cannot say "no address".
        if let Ok(printed) = result.to_json(version) {
            let again = Success::from_json(&printed, version).expect("our own result");
            assert_eq!(
                again.to_json(version).expect("it was printed before"),
                printed
            );
        } else {
            assert!(result.ips.is_empty());
        }
    }
    accepted
}

/// The wireserver's list of addresses.
pub fn wireserver(xml: &[u8]) -> bool {
    let found = std::str::from_utf8(xml).map(source::wireserver::parse);
    matches!(found, Ok(Ok(found)) if gives_addresses(&found))
}

/// The metadata service's list of addresses.
pub fn imds(json: &[u8]) -> bool {
    let found = std::str::from_utf8(json).map(source::imds::parse);
    matches!(found, Ok(Ok(found)) if gives_addresses(&found))
}

/// The operator's list of addresses.
pub fn address_file(json: &[u8]) -> bool {
    source::file::parse(json).is_ok_and(|found| gives_addresses(&found))
}

/// A file of ip-masq-agent's.
pub fn ip_masq_agent(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    match azure_vnet::masquerade::agent::parse(text) {
        Ok(settings) => {
            assert!(settings.ranges.iter().all(|range| *range == range.trunc()));
            true
        }
        Err(reason) => shown(&reason.to_string()),
    }
}

/// A cluster definition.
pub fn cluster_definition(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    match azure_vnet::cluster::read(text) {
        Ok(cluster) => {
            // What it needs can be said.
            assert!(cluster.vms().count() > 0);
            for subnet in cluster.other_subnets() {
                let _ = cluster.needed_in(subnet);
            }
            let _ = (cluster.usable(), cluster.fits());
            true
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            false
        }
    }
}

/// A public key of minisign's, and a signature. None of a fuzzer's is anybody's.
pub fn signature(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    azure_vnet::signature::is_well_formed(text)
}

/// An error is for a terminal and a log: it has an end, and nothing that they obey.
fn shown(text: &str) -> bool {
    assert!(text.len() < 16 << 10, "{} bytes", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
    false
}

/// Whether there is any; and each of them only where it may be, and once.
fn gives_addresses(found: &Found) -> bool {
    let mut seen = BTreeSet::new();
    for subnet in &found.subnets {
        for address in &subnet.addresses {
            assert!(subnet.prefix.contains(address), "{address} is elsewhere");
            assert_eq!(
                azure_vnet_cni::pod_address::unfit_in(*address, subnet.prefix),
                None
            );
            assert_ne!(*address, subnet.prefix.network());
            assert_ne!(*address, subnet.prefix.broadcast());
            assert!(seen.insert(*address), "{address} could be given twice");
        }
    }
    assert!(found.warnings.len() < 20, "{}", found.warnings.len());
    found.warnings.iter().for_each(|warning| {
        shown(warning);
    });
    !seen.is_empty()
}

fn request(command: &str, args: &str, stdin: &[u8]) -> Result<Request, CniError> {
    let environment: Environment = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/c1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", args),
    ]
    .into_iter()
    .collect();
    Request::read(&environment, stdin.to_vec()).map(|request| request.expect("not VERSION"))
}

/// Everything in a configuration that has been let through; whether all of it makes sense.
fn understood(request: &Request) -> bool {
    let conf = request.conf();
    let (raw, name) = (conf.raw(), conf.name());
    assert!(!raw.is_empty() && !name.is_empty(), "{name:?}");
    let mut readings = vec![
        azure_vnet::config::Config::read(conf).is_ok(),
        azure_vnet_ipam::config::Config::read(conf).is_ok(),
        conf.prev_result().is_ok(),
    ];
    if let Request::Add(add) = request {
        readings.extend([add.requested_ips().is_ok(), add.requested_mac().is_ok()]);
    }
    // DEL must do with what is left of a broken configuration.
    let _ = azure_vnet_ipam::config::state_dir(conf);
    let _ = azure_vnet::config::ipam_of(conf);
    !readings.contains(&false)
}

/// An error has one of these codes and says something.
fn refused(error: &CniError, codes: &[u32]) -> bool {
    assert!(codes.contains(&error.code), "{error:?}");
    assert!(!error.msg.is_empty());
    false
}
