//! `CNI_ARGS`: `KEY=value` pairs joined by `;`.

use std::collections::BTreeMap;

/// Keys that a plugin need not be told to ignore. Both plugins of the pair know all of them, as a runtime
/// gives both the same variable while `MAC` is for one and `IP` for the other.
const KNOWN: [&str; 3] = ["IgnoreUnknown", "IP", "MAC"];

/// What Kubernetes runtimes say about the pod begins with this.
const KNOWN_PREFIX: &str = "K8S_";

/// The pairs of `CNI_ARGS`. The `K8S_POD_*` ones are optional: cnitool and podman do not send them all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args(BTreeMap<String, String>);

impl Args {
    /// The value of `key`, matched exactly as libcni does.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Reads the variable's value by libcni's grammar, in any order of the pairs; a trailing `;` is allowed.
    ///
    /// # Errors
    /// A sentence that says which pair is wrong, or which unknown key came without `IgnoreUnknown=1`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pairs = BTreeMap::new();
        let text = text.strip_suffix(';').unwrap_or(text);
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() && !value.contains('=') => {
                    pairs.insert(key.to_owned(), value.to_owned());
                }
                _ => return Err(format!("has {pair:?}, which is not of the form KEY=value")),
            }
        }
        let args = Args(pairs);
        if !args.ignore_unknown()? {
            args.only_known()?;
        }
        Ok(args)
    }

    fn ignore_unknown(&self) -> Result<bool, String> {
        match self.get("IgnoreUnknown") {
            None | Some("0" | "false" | "False" | "FALSE") => Ok(false),
            Some("1" | "true" | "True" | "TRUE") => Ok(true),
            Some(other) => Err(format!("has IgnoreUnknown={other:?}, which is not boolean")),
        }
    }

    fn only_known(&self) -> Result<(), String> {
        let known = |key: &str| KNOWN.contains(&key) || key.starts_with(KNOWN_PREFIX);
        let mut unknown = self.0.keys().filter(|key| !known(key));
        unknown.next().map_or(Ok(()), |key| {
            Err(format!("has unknown key {key:?} and no IgnoreUnknown=1"))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn kubernetes_keys_in_any_order() {
        for text in [
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=u;FOO=",
            "FOO=;K8S_POD_UID=u;K8S_POD_NAME=web;IgnoreUnknown=TRUE;K8S_POD_NAMESPACE=ns;",
            "K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web",
            "MAC=c2:11:22:33:44:55;K8S_POD_NAMESPACE=ns;IP=10.0.0.5/24;K8S_POD_NAME=web",
        ] {
            let args = Args::parse(text).unwrap();
            assert_eq!(args.get("K8S_POD_NAME"), Some("web"), "{text}");
            assert_eq!(args.get("K8S_POD_NAMESPACE"), Some("ns"), "{text}");
        }
        assert_eq!(Args::parse(""), Ok(Args::default()));
        assert_eq!(Args::parse(";"), Ok(Args::default()));
    }

    #[test]
    fn what_libcni_refuses_is_refused() {
        for text in [
            "FOO",
            "IgnoreUnknown=1;FOO",
            "IgnoreUnknown=1;A=B=C",
            "=x",
            "IgnoreUnknown=yes",
            "FOO=1",
            "FOO=1;IgnoreUnknown=0",
            "ip=10.0.0.5",
            "IgnoreUnknown=1;;A=B",
        ] {
            assert!(Args::parse(text).is_err(), "{text}");
        }
    }
}
