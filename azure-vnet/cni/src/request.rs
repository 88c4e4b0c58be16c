//! One call of a plugin, checked: a verb's variant has exactly that verb's fields.

use crate::{
    args::Args,
    environment::{Call, NewerCommand, unknown_command},
    error::CniError,
    input::{End, Input, MAX_BYTES},
    netconf::{NetConf, Rejected, requested_version, version_to_reply_in},
    version::Version,
};

/// What a plugin is asked to do.
#[derive(Clone, Debug)]
pub enum Request {
    /// Connect a container.
    Add(Add),
    /// Undo an ADD, or nothing if there is nothing to undo.
    Del(Del),
}

/// The fields of ADD.
#[derive(Clone, Debug)]
pub struct Add {
    /// `CNI_CONTAINERID`; any length, so names derived from it must be hashed.
    pub container_id: String,
    /// `CNI_NETNS` as the runtime wrote it: a result repeats it byte for byte as `sandbox`.
    pub netns: String,
    /// `CNI_IFNAME`: the interface to make; at most 15 bytes.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Args,
    /// `CNI_PATH`: where delegates are looked for; empty if not given.
    pub path: String,
    /// Standard input.
    pub conf: NetConf,
}

/// The fields of DEL. `CNI_ARGS` is not among them: a DEL never fails for it, so it cannot depend on it.
#[derive(Clone, Debug)]
pub struct Del {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`; `None` when the namespace is already gone, which is no error.
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_PATH`; empty if not given.
    pub path: String,
    /// Standard input.
    pub conf: NetConf,
}

impl Request {
    /// The version the reply is written in.
    pub fn version(&self) -> Version {
        match self {
            Request::Add(add) => add.conf.version(),
            Request::Del(del) => del.conf.version(),
        }
    }
}

/// A call that can be answered: by this crate, or by the plugin.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// With the caller's version, if we speak it.
    Version(Option<Version>),
    Plugin(Request),
}

impl Invocation {
    /// Joins the environment's half of a call with standard input.
    pub(crate) fn new(call: Result<Call, CniError>, input: Input) -> Result<Self, Rejected> {
        // The specification wants the caller's version even in an error about the environment.
        let call = call.map_err(|error| Rejected {
            version: version_to_reply_in(&input.bytes),
            error,
        })?;
        match call {
            // A runtime may keep the pipe open or write nothing: what came is enough.
            Call::Version => Ok(Invocation::Version(requested_version(&input.bytes))),
            Call::Add(variables) => Ok(Invocation::Plugin(Request::Add(Add {
                container_id: variables.container_id,
                netns: variables.netns,
                ifname: variables.ifname,
                args: variables.args,
                path: variables.path,
                conf: configuration(input)?,
            }))),
            Call::Del(variables) => Ok(Invocation::Plugin(Request::Del(Del {
                container_id: variables.container_id,
                netns: variables.netns,
                ifname: variables.ifname,
                path: variables.path,
                conf: configuration(input)?,
            }))),
            Call::Newer(command) => Err(refusal(command, &configuration(input)?)),
        }
    }
}

fn configuration(input: Input) -> Result<NetConf, Rejected> {
    let problem = match input.end {
        End::Closed => return NetConf::from_bytes(input.bytes),
        End::TimedOut(limit) => CniError::new(
            crate::error::code::IO,
            format!("standard input was not closed within {} s", limit.as_secs()),
        ),
        End::TooLarge => CniError::new(
            crate::error::code::IO,
            format!(
                "the configuration on standard input is larger than {} MiB",
                MAX_BYTES >> 20
            ),
        ),
        End::Failed(cause) => CniError::io("reading standard input failed", &cause),
    };
    Err(Rejected {
        version: version_to_reply_in(&input.bytes),
        error: problem,
    })
}

/// Commands of later versions: the configuration's version does not have them, or we do not yet.
fn refusal(command: NewerCommand, conf: &NetConf) -> Rejected {
    let version = conf.version();
    let in_version = match command {
        NewerCommand::Check => version.has_check(),
        NewerCommand::Status | NewerCommand::Gc => version.has_status_and_gc(),
    };
    let error = if in_version {
        unknown_command(command.name())
    } else {
        CniError::new(
            crate::error::code::INCOMPATIBLE_VERSION,
            format!("config version does not allow {}", command.name()),
        )
    };
    Rejected { version, error }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use crate::environment::Environment;
    use std::{io, time::Duration};

    const CONF: &str = r#"{"cniVersion":"0.3.0","name":"n1"}"#;

    fn invoke(command: &str, bytes: &[u8], end: End) -> Result<Invocation, Rejected> {
        let environment: Environment = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/../netns/c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ]
        .into_iter()
        .collect();
        let input = Input {
            bytes: bytes.to_vec(),
            end,
        };
        Invocation::new(Call::from_environment(&environment).unwrap(), input)
    }

    #[test]
    fn add_has_everything_verbatim() {
        let Ok(Invocation::Plugin(Request::Add(add))) = invoke("ADD", CONF.as_bytes(), End::Closed)
        else {
            panic!("not an ADD");
        };
        assert_eq!(add.netns, "/run/netns/../netns/c1");
        assert_eq!(
            (add.container_id.as_str(), add.ifname.as_str()),
            ("c1", "eth0")
        );
        assert_eq!(add.conf.raw(), CONF.as_bytes());
    }

    #[test]
    fn version_echoes_what_we_speak() {
        for (stdin, expected) in [
            (r#"{"cniVersion":"0.3.0"}"#, Some(Version::V0_3_0)),
            (r#"{"cniVersion":"9.9.9"}"#, None),
            ("garbage", None),
            ("", None),
        ] {
            let end = End::TimedOut(Duration::ZERO);
            match invoke("VERSION", stdin.as_bytes(), end) {
                Ok(Invocation::Version(version)) => assert_eq!(version, expected, "{stdin}"),
                other => panic!("{stdin}: {other:?}"),
            }
        }
    }

    #[test]
    fn commands_of_later_versions() {
        for command in ["CHECK", "STATUS", "GC"] {
            let rejected = invoke(command, CONF.as_bytes(), End::Closed).unwrap_err();
            assert_eq!(rejected.error.code, 1);
            assert_eq!(
                rejected.error.msg,
                format!("config version does not allow {command}")
            );
        }
    }

    #[test]
    fn environment_errors_carry_the_version_of_stdin() {
        let rejected = invoke("FOO", CONF.as_bytes(), End::Closed).unwrap_err();
        assert_eq!(
            (rejected.error.code, rejected.version),
            (4, Version::V0_3_0)
        );
        let rejected = invoke("FOO", b"{", End::Closed).unwrap_err();
        assert_eq!(rejected.version, Version::newest());
    }

    #[test]
    fn broken_input_is_code_5() {
        for end in [
            End::TimedOut(Duration::from_secs(10)),
            End::TooLarge,
            End::Failed(io::Error::other("torn cable")),
        ] {
            let rejected = invoke("DEL", CONF.as_bytes(), end).unwrap_err();
            assert_eq!(
                (rejected.error.code, rejected.version),
                (5, Version::V0_3_0)
            );
        }
    }

    /// Arbitrary bytes give an error or a request, never a panic.
    #[test]
    fn damaged_configurations_never_panic() {
        let seed = br#"{"cniVersion":"0.3.1","name":"n1","ipam":{"type":"x"},"prevResult":{"ips":[{"address":"10.0.0.2/24","interface":0}],"dns":null}}"#;
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let mut bytes = seed.to_vec();
            for _ in 0..=random % 3 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let [position, value, action, ..] = random.to_le_bytes();
                let position = usize::from(position) % bytes.len();
                match action % 3 {
                    0 => bytes[position] = value,
                    1 => bytes.insert(position, b"{}[]\":,0"[usize::from(value) % 8]),
                    _ => drop(bytes.remove(position)),
                }
            }
            match invoke("ADD", &bytes, End::Closed) {
                Ok(Invocation::Plugin(Request::Add(add))) => {
                    let _ = add.conf.prev_result();
                }
                Ok(other) => panic!("{other:?}"),
                Err(rejected) => assert!([1, 6, 7].contains(&rejected.error.code)),
            }
        }
    }
}
