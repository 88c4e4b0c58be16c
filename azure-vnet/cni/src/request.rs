//! One call of a plugin, checked: a verb's variant has exactly that verb's fields.

use crate::{
    args::Args,
    attachments::{ValidAttachment, valid_attachments},
    environment::{Call, Environment},
    error::{CniError, code},
    input::{End, Input, MAX_BYTES},
    netconf::{NetConf, Rejected, requested_version, version_to_reply_in},
    reply::Success,
    version::Version,
};

/// What a plugin is asked to do.
#[derive(Clone, Debug)]
pub enum Request {
    /// Connect a container.
    Add(Add),
    /// Undo an ADD, or nothing if there is nothing to undo.
    Del(Del),
    /// Is what an ADD made still as it should be? Changes nothing. Since 0.4.0.
    Check(Check),
    /// Undo every ADD of this network whose container is gone. Since 1.1.0.
    Gc(Gc),
    /// Could an ADD work? Changes nothing, and is asked often. Since 1.1.0.
    Status(Status),
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

/// The fields of CHECK. `CNI_ARGS` is not among them: what came of it is in the result of the ADD.
#[derive(Clone, Debug)]
pub struct Check {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS` as the runtime wrote it.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_PATH`; empty if not given.
    pub path: String,
    /// Standard input.
    pub conf: NetConf,
    /// `prevResult`: what the whole chain of plugins reported in the end. Later plugins may have changed a
    /// MAC address and added interfaces, addresses and routes of their own.
    pub prev: Success,
}

/// The fields of GC.
#[derive(Clone, Debug)]
pub struct Gc {
    /// `CNI_PATH`; empty if not given.
    pub path: String,
    /// Standard input.
    pub conf: NetConf,
    /// The attachments of this network that must stay; may be empty.
    pub valid: Vec<ValidAttachment>,
}

/// The fields of STATUS.
#[derive(Clone, Debug)]
pub struct Status {
    /// `CNI_PATH`; empty if not given.
    pub path: String,
    /// Standard input.
    pub conf: NetConf,
}

impl Request {
    /// What a runtime asks with these variables and these bytes on standard input; `None` if it is nothing
    /// that a plugin answers itself (VERSION, or no command at all).
    ///
    /// # Errors
    /// Code 1, 4, 6 or 7.
    pub fn read(environment: &Environment, stdin: Vec<u8>) -> Result<Option<Request>, CniError> {
        let Some(call) = Call::from_environment(environment) else {
            return Ok(None);
        };
        let end = End::Closed;
        match Invocation::new(call, Input { bytes: stdin, end }) {
            Ok(Invocation::Plugin(request)) => Ok(Some(request)),
            Ok(Invocation::Version(_)) => Ok(None),
            Err(rejected) => Err(rejected.error),
        }
    }

    /// The version the reply is written in.
    pub fn version(&self) -> Version {
        self.conf().version()
    }

    /// What takes this call back, if it is an ADD.
    pub(crate) fn undo(&self) -> Option<Del> {
        match self {
            Request::Add(add) => Some(Del {
                container_id: add.container_id.clone(),
                netns: Some(add.netns.clone()),
                ifname: add.ifname.clone(),
                path: add.path.clone(),
                conf: add.conf.clone(),
            }),
            _ => None,
        }
    }

    /// Standard input.
    pub fn conf(&self) -> &NetConf {
        match self {
            Request::Add(add) => &add.conf,
            Request::Del(del) => &del.conf,
            Request::Check(check) => &check.conf,
            Request::Gc(gc) => &gc.conf,
            Request::Status(status) => &status.conf,
        }
    }
}

/// A call that can be answered: by this crate, or by the plugin.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one in a process, and it is taken apart at once"
)]
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
            Call::Check(variables) => {
                let conf = configuration(input)?;
                allowed("CHECK", Version::has_check, &conf)?;
                Ok(Invocation::Plugin(Request::Check(Check {
                    container_id: variables.container_id,
                    netns: variables.netns,
                    ifname: variables.ifname,
                    path: variables.path,
                    prev: in_version_of(&conf, previous(&conf))?,
                    conf,
                })))
            }
            Call::Gc(variables) => {
                let conf = configuration(input)?;
                allowed("GC", Version::has_status_and_gc, &conf)?;
                Ok(Invocation::Plugin(Request::Gc(Gc {
                    path: variables.path,
                    valid: in_version_of(&conf, valid_attachments(&conf))?,
                    conf,
                })))
            }
            Call::Status(variables) => {
                let conf = configuration(input)?;
                allowed("STATUS", Version::has_status_and_gc, &conf)?;
                Ok(Invocation::Plugin(Request::Status(Status {
                    path: variables.path,
                    conf,
                })))
            }
        }
    }
}

fn configuration(input: Input) -> Result<NetConf, Rejected> {
    let problem = match input.end {
        End::Closed => return NetConf::from_bytes(input.bytes),
        End::TimedOut(limit) => CniError::new(
            code::IO,
            format!("standard input was not closed within {} s", limit.as_secs()),
        ),
        End::TooLarge => CniError::new(
            code::IO,
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

/// Code 1 for a command that the configuration's version does not have yet, in libcni's words.
fn allowed(command: &str, has: fn(Version) -> bool, conf: &NetConf) -> Result<(), Rejected> {
    if has(conf.version()) {
        return Ok(());
    }
    let error = CniError::new(
        code::INCOMPATIBLE_VERSION,
        format!("config version does not allow {command}"),
    )
    .with_details(format!("config is {:?}", conf.version().as_str()));
    in_version_of(conf, Err(error))
}

/// CHECK compares with the result of ADD, so it cannot do without.
fn previous(conf: &NetConf) -> Result<Success, CniError> {
    conf.prev_result()?.ok_or_else(|| {
        CniError::invalid_config("CHECK needs the result of ADD, and \"prevResult\" is missing")
    })
}

fn in_version_of<T>(conf: &NetConf, result: Result<T, CniError>) -> Result<T, Rejected> {
    let version = conf.version();
    result.map_err(|error| Rejected { version, error })
}

#[cfg(test)]
mod tests;
