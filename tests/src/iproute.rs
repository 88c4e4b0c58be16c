//! `ip -batch`: many changes of a namespace's network in one process, written as an operator would type them.

use crate::namespace::Namespace;
use crate::{Error, process};

/// Carries out the lines in order and stops at the first that fails; the error quotes ip's message, which names the line.
pub fn batch(namespace: &Namespace, lines: &[String]) -> Result<(), Error> {
    let input = lines
        .iter()
        .fold(String::new(), |text, line| text + line + "\n");
    run(namespace, "ip", &["-batch", "-"], input)
}

/// Loads a ruleset in one transaction.
pub fn load_rules(namespace: &Namespace, ruleset: &str) -> Result<(), Error> {
    run(namespace, "nft", &["-f", "-"], ruleset.to_owned())
}

/// Sets sysctls of the namespace, in order; keys are paths below /proc/sys/net.
pub fn sysctls(namespace: &Namespace, values: &[(&str, &str)]) -> Result<(), Error> {
    namespace
        .run(|| {
            values.iter().try_for_each(|(key, value)| {
                std::fs::write(format!("/proc/sys/net/{key}"), value).map_err(|source| {
                    Error::Setup {
                        what: format!("sysctl net/{key}={value}"),
                        source,
                    }
                })
            })
        })
        .map_err(Error::namespace)?
}

fn run(namespace: &Namespace, program: &str, args: &[&str], input: String) -> Result<(), Error> {
    let program = namespace.program(program).map_err(Error::namespace)?;
    program
        .args(args)
        .stdin(input)
        .checked()
        .map(drop)
        .map_err(process::Error::into)
}
