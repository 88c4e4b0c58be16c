//! The `ipam` section of the configuration: as sent, and as meant.
//!
//! docs/configuration.md has the keys, as they are documented here.
//!
//! `wireserver`, `imds` and `stateDir` exist for tests and simulators. They are configuration keys and not environment variables,
//! because a plugin inherits the runtime's whole environment while the configuration is the operator's alone.
//! Other keys (`addressSpace`, …) are left alone. Outside of `ipam`, `master` is the name of the NIC whose addresses
//! will do; without it, the primary NIC's go first, then those of the NIC that has most left. Under a network plugin
//! that is not `azure-vnet`, a `master` that is no NIC of the VM's is that plugin's own business.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use azure_vnet_cni::{CniError, NetConf, foreign, keys};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    pool::{Particular, Wanted},
    source::Source,
};

const NETWORK_PLUGIN: &str = "azure-vnet";

const STATE_DIR: &str = "/run/azure-vnet";

/// The pool of a NIC changes when an operator changes it, and exhaustion asks at once in any case.
const QUERY_INTERVAL: Duration = Duration::from_mins(1);

/// Host of the wireserver; it answers on every Azure VM, and only from the VM itself.
const WIRESERVER: &str = "http://168.63.129.16";

/// Host of the instance metadata service.
const IMDS: &str = "http://169.254.169.254";

/// Bytes.
const LONGEST_URL: usize = 1024;

/// Where the original plugin has its list.
const FILE: &str = "/etc/kubernetes/interfaces.json";

/// What an ADD is to do.
#[derive(Debug)]
pub struct Config {
    /// Where the addresses come from.
    pub source: Source,
    /// Which of them will do.
    pub wanted: Wanted,
    /// The NIC whose addresses will do, by name; any if there is none.
    pub master: Option<String>,
    /// Whether the network plugin is ours, for which `master` is a NIC of Azure's; another may mean any link.
    pub is_of_pair: bool,
    /// How long the source's last answer is good.
    pub query_interval: Duration,
    /// Where the addresses in use are recorded.
    pub state_dir: PathBuf,
}

#[derive(Deserialize)]
struct Sent {
    #[serde(default, rename = "type")]
    plugin: String,
    #[serde(default)]
    master: String,
    #[serde(default)]
    ipam: Ipam,
}

/// Every address is text here, so that an error can name the key and repeat the value.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Ipam {
    /// Where the addresses come from: `azure` (default), the wireserver; `imds`, the instance metadata service; `file`
    /// (or `mas`, `fileIpam`), a list.
    environment: String,
    /// Only addresses of this subnet.
    subnet: String,
    /// Only this address, with or without prefix length; the runtime's own request (`ips`, `IP=`) goes before it.
    ip_address: String,
    /// Seconds for which the source's last answer is good, as a string or a number; default 60.
    query_interval: Option<Value>,
    /// Base URL to ask instead of `http://168.63.129.16`; for tests and simulators.
    wireserver: String,
    /// Base URL to ask instead of `http://169.254.169.254`; for tests and simulators.
    imds: String,
    /// The list of the source `file` instead of `/etc/kubernetes/interfaces.json`.
    file: String,
    /// Where the state is kept instead of `/run/azure-vnet`; for tests and simulators.
    state_dir: String,
}

impl Config {
    /// Reads and checks the `ipam` section.
    ///
    /// # Errors
    /// Code 7, with key and value.
    pub fn read(conf: &NetConf) -> Result<Config, CniError> {
        let Sent {
            plugin,
            master,
            ipam,
        } = conf.parse()?;
        let is_of_pair = plugin == NETWORK_PLUGIN;
        let wanted = Wanted {
            is_routed: is_of_pair,
            subnet: given(&ipam.subnet).map(subnet).transpose()?,
            address: given(&ipam.ip_address).map(address).transpose()?,
            ..Wanted::default()
        };
        Ok(Config {
            source: source(&ipam)?,
            wanted,
            master: given(&master).map(str::to_owned),
            is_of_pair,
            query_interval: ipam
                .query_interval
                .as_ref()
                .map_or(Ok(QUERY_INTERVAL), seconds)?,
            state_dir: given(&ipam.state_dir).unwrap_or(STATE_DIR).into(),
        })
    }
}

/// The state's directory alone: all that DEL needs, and to be had from a configuration that is wrong otherwise.
pub fn state_dir(conf: &NetConf) -> PathBuf {
    let ipam = conf.get("ipam").and_then(Value::as_object);
    let text = ipam.and_then(|ipam| keys::get(ipam, "stateDir")?.as_str());
    Path::new(text.and_then(given).unwrap_or(STATE_DIR)).into()
}

fn source(ipam: &Ipam) -> Result<Source, CniError> {
    let environment = given(&ipam.environment).unwrap_or("azure");
    match environment.to_ascii_lowercase().as_str() {
        "azure" => Ok(Source::Wireserver {
            base: base("wireserver", &ipam.wireserver, WIRESERVER)?,
        }),
        "imds" => Ok(Source::Imds {
            base: base("imds", &ipam.imds, IMDS)?,
        }),
        "file" | "mas" | "fileipam" => Ok(Source::File {
            path: absolute("file", given(&ipam.file).unwrap_or(FILE))?,
        }),
        _ => Err(wrong(
            "environment",
            environment,
            "must be \"azure\", \"imds\" or \"file\" (or \"mas\" or \"fileIpam\", which are the same)",
        )),
    }
}

fn base(key: &str, given_value: &str, default: &str) -> Result<String, CniError> {
    let base = given(given_value).unwrap_or(default);
    if !base.starts_with("http://") || base.len() > LONGEST_URL {
        return Err(wrong(
            key,
            foreign::excerpt(base).into_owned(),
            "must begin with http:// and have at most 1024 bytes",
        ));
    }
    Ok(base.trim_end_matches('/').into())
}

fn absolute(key: &str, text: &str) -> Result<PathBuf, CniError> {
    Some(PathBuf::from(text))
        .filter(|path| path.is_absolute())
        .ok_or_else(|| wrong(key, text, "must be an absolute path"))
}

fn subnet(text: &str) -> Result<Ipv4Net, CniError> {
    text.parse::<Ipv4Net>()
        .map(|net| net.trunc())
        .map_err(|_| wrong("subnet", text, "must be an IPv4 subnet such as 10.0.0.0/20"))
}

fn address(text: &str) -> Result<Particular, CniError> {
    let bare = text.parse::<Ipv4Addr>().ok();
    bare.or_else(|| Some(text.parse::<Ipv4Net>().ok()?.addr()))
        .map(|address| Particular {
            address,
            by: "ipam.ipAddress",
        })
        .ok_or_else(|| wrong("ipAddress", text, "must be an IPv4 address"))
}

/// Upstream's key is a string of seconds; a number is what everybody tries first.
fn seconds(value: &Value) -> Result<Duration, CniError> {
    let seconds = match value {
        Value::String(text) if text.is_empty() => return Ok(QUERY_INTERVAL),
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    let what = "must be a whole number of seconds";
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| wrong("queryInterval", value.clone(), what))
}

/// The empty string is Go's "not given".
fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn wrong(key: &str, value: impl Into<Value>, what: &str) -> CniError {
    let value: Value = value.into();
    CniError::invalid_config(format!("ipam.{key} {value} {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use serde_json::json;

    fn conf(ipam: &Value) -> NetConf {
        let conf = json!({"cniVersion": "0.3.0", "name": "azure", "ipam": ipam});
        conf.to_string().parse().unwrap()
    }

    #[test]
    fn the_shipped_section_is_enough() {
        let config = Config::read(&conf(&json!({"type": "azure-vnet-ipam"}))).unwrap();
        let base = "http://168.63.129.16".into();
        assert_eq!(config.source, Source::Wireserver { base });
        assert_eq!(config.wanted, Wanted::default());
        assert_eq!(config.query_interval, Duration::from_mins(1));
        assert_eq!(config.state_dir, Path::new("/run/azure-vnet"));
    }

    #[test]
    fn every_key_in_any_case() {
        let ipam = json!({
            "ENVIRONMENT": "azure", "Subnet": "10.1.2.3/20", "ipaddress": "10.1.2.9/20", "QueryInterval": "7",
            "WireServer": "http://127.0.0.1:1/", "statedir": "/run/x", "addressSpace": "local",
        });
        let config = Config::read(&conf(&ipam)).unwrap();
        assert_eq!(config.wanted.subnet, Some("10.1.0.0/20".parse().unwrap()));
        let address = config.wanted.address.unwrap().address;
        assert_eq!(address, Ipv4Addr::new(10, 1, 2, 9));
        assert_eq!(config.query_interval, Duration::from_secs(7));
        assert_eq!(config.state_dir, Path::new("/run/x"));
        let base = "http://127.0.0.1:1".into();
        assert_eq!(config.source, Source::Wireserver { base });
        assert_eq!(state_dir(&conf(&ipam)), Path::new("/run/x"));
    }

    #[test]
    fn every_source_has_its_names() {
        let source = |ipam: Value| Config::read(&conf(&ipam)).map(|config| config.source);
        let default = source(json!({"environment": "imds"})).unwrap();
        let base = "http://169.254.169.254".into();
        assert_eq!(default, Source::Imds { base });
        for name in ["file", "mas", "fileIpam"] {
            let path = "/etc/kubernetes/interfaces.json".into();
            let default = source(json!({"environment": name})).unwrap();
            assert_eq!(default, Source::File { path }, "{name}");
        }
        let error = source(json!({"environment": "file", "file": "list.json"})).unwrap_err();
        assert!(error.msg.contains("absolute"), "{error}");
        let error = source(json!({"environment": "imds", "imds": "169.254.169.254"}));
        assert!(error.unwrap_err().msg.contains("ipam.imds"));
    }

    #[test]
    fn wrong_values_are_named() {
        for (key, value) in [
            ("environment", json!("null")),
            ("subnet", json!("10.0.0.0")),
            ("ipAddress", json!("fd00::1")),
            ("queryInterval", json!("soon")),
            ("queryInterval", json!(-1)),
            ("queryInterval", json!([])),
            ("wireserver", json!("https://168.63.129.16")),
            ("file", json!(7)),
            ("stateDir", json!(7)),
        ] {
            let error = Config::read(&conf(&json!({ key: value }))).unwrap_err();
            assert_eq!(error.code, 7, "{key}");
            assert!(error.msg.contains(key), "{key}: {error}");
            let value = value.to_string();
            assert!(
                error.msg.contains(value.trim_matches('"')),
                "{key}: {error}"
            );
        }
        assert_eq!(state_dir(&conf(&json!([]))), Path::new(STATE_DIR));
    }
}
