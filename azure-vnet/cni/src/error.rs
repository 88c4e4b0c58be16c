//! The error object of the protocol: what a failing call prints on standard output.

use std::{error::Error, fmt::Write as _, io};

use serde_json::{Value, json};

use crate::version::{Version, supported_list};

/// Error codes. Below 100 they are the specification's; 0, 8-10, 12-49 and 52-99 are never used.
pub mod code {
    /// The configuration's `cniVersion` is not one the plugin speaks.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration that the plugin does not support; the message has key and value.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// An environment variable is missing or invalid; the message names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading the configuration failed.
    pub const IO: u32 = 5;
    /// The configuration is not the JSON it should be.
    pub const DECODE: u32 = 6;
    /// The configuration is readable but wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// A passing condition; the same call may succeed later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: an ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: an ADD would fail, and containers that are attached may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// First code that belongs to the plugin. Here: a defect of the plugin itself.
    pub const INTERNAL: u32 = 100;
    /// A delegated plugin is missing, failed without an error object, or answered nonsense.
    pub const DELEGATE: u32 = 101;
    /// First code that this crate does not use: a plugin's own codes start here.
    pub const PLUGIN: u32 = 110;
}

/// Bytes of a message, and of its details.
const LONGEST_TEXT: usize = 8 << 10;

/// What a call reports instead of a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// See [`code`].
    pub code: u32,
    /// One sentence: what failed, on what.
    pub msg: String,
    /// The causes and what to do; may be empty.
    pub details: String,
}

impl CniError {
    /// An error with a code of [`code`] or one of the plugin's own (100 and above).
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        CniError {
            code,
            msg: bounded(msg.into()),
            details: String::new(),
        }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(self, details: impl Into<String>) -> Self {
        CniError {
            details: bounded(details.into()),
            ..self
        }
    }

    /// An error whose message is `error` and whose details are the chain of its causes.
    pub fn from_error(code: u32, error: &(dyn Error + 'static)) -> Self {
        let mut details = String::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            let separator = if details.is_empty() { "" } else { ": " };
            // Writing to a String cannot fail.
            let _ = write!(details, "{separator}{error}");
            cause = error.source();
        }
        Self::new(code, error.to_string()).with_details(details)
    }

    /// Code 1 for a `cniVersion` that the plugins do not speak.
    pub fn incompatible_version(requested: &str) -> Self {
        Self::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions").with_details(format!(
            "config is {requested:?}, plugin supports [{}]",
            supported_list()
        ))
    }

    /// Code 2; the specification wants key and value in the message.
    pub fn unsupported_field(key: &str, value: &Value) -> Self {
        Self::new(
            code::UNSUPPORTED_FIELD,
            format!("unsupported field {key:?} with value {value}"),
        )
    }

    /// Code 4; `problem` starts with the variable's name.
    pub fn invalid_environment(problem: impl Into<String>) -> Self {
        Self::new(code::INVALID_ENVIRONMENT, problem)
    }

    /// Code 5.
    pub fn io(what: &str, cause: &io::Error) -> Self {
        Self::new(code::IO, what).with_details(cause.to_string())
    }

    /// Code 6.
    pub fn decode(what: impl Into<String>) -> Self {
        Self::new(code::DECODE, what)
    }

    /// Code 7.
    pub fn invalid_config(problem: impl Into<String>) -> Self {
        Self::new(code::INVALID_CONFIG, problem)
    }

    /// Code 11.
    pub fn try_again(problem: impl Into<String>) -> Self {
        Self::new(code::TRY_AGAIN, problem)
    }

    /// Code 50: what keeps ADD from working, and what to do about it. Only for STATUS.
    pub fn not_available(reason: impl Into<String>) -> Self {
        Self::new(code::NOT_AVAILABLE, reason)
    }

    /// Code 51: as [`not_available`](Self::not_available), and attached containers suffer from it too.
    pub fn limited_connectivity(reason: impl Into<String>) -> Self {
        Self::new(code::LIMITED_CONNECTIVITY, reason)
    }

    /// The error object; `cniVersion` is part of it in every version of the specification.
    pub fn to_json(&self, version: Version) -> Value {
        let mut object = json!({
            "cniVersion": version.as_str(),
            "code": self.code,
            "msg": self.msg,
        });
        if !self.details.is_empty() {
            object["details"] = json!(self.details);
        }
        object
    }

    /// The error object another plugin printed, or `None` if `value` is not one.
    ///
    /// Code 0 is not an error code; libcni-based plugins print it all the same, and it becomes
    /// [`code::DELEGATE`] so that no caller reads it as success.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |key| {
            value
                .get(key)
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
        };
        let code = u32::try_from(value.get("code")?.as_u64()?).ok()?;
        let code = if code == 0 { code::DELEGATE } else { code };
        let msg = text("msg").filter(|msg| !msg.is_empty())?;
        Some(Self::new(code, msg).with_details(text("details").unwrap_or_default()))
    }
}

/// An error repeats what was given, which may be megabytes: runtimes log it, and kubelet writes it into events.
fn bounded(mut text: String) -> String {
    let length = text.len();
    if length > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        // Writing to a String cannot fail.
        let _ = write!(text, "… ({length} bytes)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_always_has_a_version() {
        let error = CniError::invalid_config("missing network name");
        assert_eq!(
            error.to_json(Version::V0_3_0),
            json!({"cniVersion": "0.3.0", "code": 7, "msg": "missing network name"})
        );
        let error = error.with_details("why");
        assert_eq!(error.to_json(Version::V0_3_0)["details"], "why");
        assert_eq!(error.to_string(), "missing network name: why");
    }

    #[test]
    fn version_errors_name_both_sides() {
        let error = CniError::incompatible_version("9.9.9");
        assert_eq!(error.code, 1);
        assert_eq!(
            error.details,
            r#"config is "9.9.9", plugin supports [0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0]"#
        );
    }

    #[test]
    fn a_text_has_a_limit() {
        let long = "é".repeat(1 << 20);
        for error in [
            CniError::unsupported_field("vlan", &json!(long)),
            CniError::decode("x").with_details(long.clone()),
            CniError::from_error(code::PLUGIN, &io::Error::other(long.clone())),
        ] {
            let text = error.to_string();
            assert!(
                text.len() < 8300 && text.ends_with(" bytes)"),
                "{} bytes",
                text.len()
            );
        }
    }

    #[test]
    fn unsupported_fields_have_key_and_value() {
        let error = CniError::unsupported_field("vlan", &json!(100));
        assert!(error.msg.contains("vlan") && error.msg.contains("100"));
    }

    #[test]
    fn causes_become_details() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the state")]
        struct Outer(#[source] io::Error);
        let error = CniError::from_error(code::PLUGIN, &Outer(io::Error::other("disk on fire")));
        assert_eq!(
            error,
            CniError::new(110, "cannot read the state").with_details("disk on fire")
        );
    }

    #[test]
    fn an_error_object_survives_a_round_trip() {
        let error = CniError::new(123, "forced").with_details("some details");
        assert_eq!(
            CniError::from_json(&error.to_json(Version::V0_3_1)),
            Some(error)
        );
        for not_an_error in [
            json!({}),
            json!([]),
            json!({"code": 5}),
            json!({"code": -1, "msg": "x"}),
        ] {
            assert_eq!(CniError::from_json(&not_an_error), None, "{not_an_error}");
        }
        let zero = CniError::from_json(&json!({"code": 0, "msg": "x"}));
        assert_eq!(zero.map(|error| error.code), Some(code::DELEGATE));
    }
}
