//! The network configuration on standard input.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    environment::{IDENTIFIER, is_identifier},
    error::CniError,
    foreign, json, keys,
    reply::Success,
    version::Version,
};

/// A configuration whose version is spoken and whose network name is valid; the rest is the plugin's to read.
#[derive(Clone, Debug)]
pub struct NetConf {
    version: Version,
    name: String,
    object: Map<String, Value>,
    raw: Vec<u8>,
}

/// Why a call was turned away before a plugin saw it, and the version to say so in.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) version: Version,
    pub(crate) error: CniError,
}

impl NetConf {
    /// Reads a whole configuration.
    pub(crate) fn from_bytes(raw: Vec<u8>) -> Result<NetConf, Rejected> {
        let in_newest = |error| Rejected {
            version: Version::NEWEST,
            error,
        };
        let object = object(&raw).map_err(in_newest)?;
        let version = version(&object).map_err(in_newest)?;
        let name = network_name(&object).map_err(|error| Rejected { version, error })?;
        Ok(NetConf {
            version,
            name,
            object,
            raw,
        })
    }

    /// The version the caller speaks, and wants the reply in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The network's name: `^[A-Za-z0-9][A-Za-z0-9_.-]{0,1023}$`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bytes as they came: what a delegate gets.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// One member of the configuration, its key matched in any case.
    pub fn get(&self, key: &str) -> Option<&Value> {
        keys::get(&self.object, key)
    }

    /// The configuration as the plugin's own struct. Keys match in any case, `null` means absent and
    /// unknown keys are left alone: they belong to other plugins.
    ///
    /// # Errors
    /// Code 7, naming the key.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        keys::from_value(Value::Object(self.object.clone()))
            .map_err(|cause| CniError::invalid_config(format!("invalid configuration: {cause}")))
    }

    /// What the plugins before this one in the chain have reported; `None` for the first.
    ///
    /// # Errors
    /// Code 7 if it is not a result of any version.
    pub fn prev_result(&self) -> Result<Option<Success>, CniError> {
        match self.get("prevResult") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Success::from_json(value, self.version)
                .map(Some)
                .map_err(|cause| CniError::invalid_config(format!("invalid prevResult: {cause}"))),
        }
    }
}

impl FromStr for NetConf {
    type Err = CniError;

    fn from_str(text: &str) -> Result<Self, CniError> {
        Self::from_bytes(text.into()).map_err(|rejected| rejected.error)
    }
}

/// The version to report an error in, from input that may be broken in any way.
pub(crate) fn version_to_reply_in(raw: &[u8]) -> Version {
    requested_version(raw).unwrap_or(Version::NEWEST)
}

/// The `cniVersion` of `raw`, if it is one we speak.
pub(crate) fn requested_version(raw: &[u8]) -> Option<Version> {
    object(raw).ok().and_then(|object| version(&object).ok())
}

fn object(raw: &[u8]) -> Result<Map<String, Value>, CniError> {
    match json::from_slice(raw) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(CniError::decode(
            "the configuration on standard input is not a JSON object",
        )),
        Err(_) if raw.iter().all(u8::is_ascii_whitespace) => Err(CniError::decode(
            "there is no configuration on standard input",
        )),
        Err(cause) => Err(
            CniError::decode("the configuration on standard input is not JSON")
                .with_details(cause.to_string()),
        ),
    }
}

fn version(object: &Map<String, Value>) -> Result<Version, CniError> {
    let requested = match keys::get(object, "cniVersion") {
        None | Some(Value::Null) => Version::WHEN_ABSENT.as_str(),
        Some(Value::String(text)) if text.is_empty() => Version::WHEN_ABSENT.as_str(),
        Some(Value::String(text)) => text,
        Some(other) => {
            return Err(CniError::decode(format!(
                "cniVersion {other} is not a string"
            )));
        }
    };
    Version::known(requested).ok_or_else(|| CniError::incompatible_version(requested))
}

fn network_name(object: &Map<String, Value>) -> Result<String, CniError> {
    match keys::get(object, "name") {
        Some(Value::String(name)) if is_identifier(name) => Ok(name.clone()),
        None | Some(Value::Null) => Err(CniError::invalid_config("missing network name")),
        Some(Value::String(name)) if name.is_empty() => {
            Err(CniError::invalid_config("missing network name"))
        }
        Some(other) => Err(CniError::invalid_config(format!(
            "network name {} {IDENTIFIER}",
            foreign::excerpt(&other.to_string()),
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn read(text: &str) -> Result<NetConf, Rejected> {
        NetConf::from_bytes(text.as_bytes().to_vec())
    }

    fn code(text: &str) -> u32 {
        read(text).unwrap_err().error.code
    }

    #[test]
    fn a_good_configuration_keeps_its_bytes() {
        let text = r#" {"CNIVERSION":"0.3.0", "Name":"azure", "args":{"x":[1]}} "#;
        let conf = read(text).unwrap();
        assert_eq!((conf.version(), conf.name()), (Version::V0_3_0, "azure"));
        assert_eq!(conf.raw(), text.as_bytes());
        assert!(conf.prev_result().unwrap().is_none());
    }

    #[test]
    fn what_is_not_one_object_is_a_decoding_error() {
        for text in ["", " \n", "{", "[]", "7", "{} x", "{}{}", "\u{feff}{}"] {
            assert_eq!(code(text), 6, "{text:?}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(code(&deep), 6);
    }

    #[test]
    fn versions_must_match_exactly() {
        for version in ["0.5.0", "9.9.9", "0.3", "1.0", "v0.3.1", "0.3.1 ", "abc"] {
            let text = format!(r#"{{"cniVersion":"{version}","name":"n1"}}"#);
            let rejected = read(&text).unwrap_err();
            assert_eq!(rejected.error.code, 1, "{version}");
            assert!(rejected.error.details.contains("0.3.0, 0.3.1"));
            assert_eq!(rejected.version, Version::NEWEST);
        }
        assert_eq!(code(r#"{"cniVersion":0.3,"name":"n1"}"#), 6);
        for absent in [r#"{"name":"n1"}"#, r#"{"cniVersion":"","name":"n1"}"#] {
            assert_eq!(read(absent).unwrap().version(), Version::V0_1_0, "{absent}");
        }
    }

    #[test]
    fn network_names() {
        for name in [
            "null",
            r#""""#,
            r#""-a""#,
            r#""a b""#,
            r#""a/b""#,
            "7",
            r#""../x""#,
        ] {
            let rejected = read(&format!(r#"{{"cniVersion":"0.3.0","name":{name}}}"#));
            let rejected = rejected.unwrap_err();
            assert_eq!(rejected.error.code, 7, "{name}");
            assert_eq!(rejected.version, Version::V0_3_0);
        }
        assert_eq!(code(r#"{"cniVersion":"0.3.0"}"#), 7);
    }

    #[test]
    fn a_network_name_has_a_limit() {
        let conf = |length| {
            format!(
                r#"{{"cniVersion":"0.3.0","name":"{}"}}"#,
                "n".repeat(length)
            )
        };
        assert_eq!(read(&conf(1024)).unwrap().name().len(), 1024);
        for length in [1025, 1 << 20] {
            let error = read(&conf(length)).unwrap_err().error;
            assert_eq!(error.code, 7);
            assert!(
                error.msg.contains("at most 1024 bytes") && error.msg.len() < 1024,
                "{error}"
            );
        }
    }

    #[test]
    fn a_configuration_has_a_limit_of_values() {
        let many = format!(
            r#"{{"cniVersion":"0.3.0","name":"n1","x":[{}0]}}"#,
            "0,".repeat(1 << 20)
        );
        let error = read(&many).unwrap_err().error;
        assert!(
            error.code == 6 && error.details.contains("values"),
            "{error}"
        );
    }

    #[test]
    fn typed_reading_names_the_key() {
        #[derive(serde::Deserialize, Debug)]
        struct Own {
            #[expect(dead_code, reason = "only its type matters")]
            mtu: u32,
        }
        let conf = read(r#"{"cniVersion":"0.3.1","name":"n1","MTU":"x"}"#).unwrap();
        let error = conf.parse::<Own>().unwrap_err();
        assert!(error.code == 7 && error.msg.contains("mtu"), "{error}");
    }
}
