//! The attachments that GC must spare.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::{error::CniError, keys, netconf::NetConf};

/// The key's name in the specification and in libcni since 1.2.0, then the one of the text of 1.1.0 as it was
/// tagged, which libcni sends beside it since 1.2.3.
const KEYS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// An attachment of this network that is in use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct ValidAttachment {
    /// `CNI_CONTAINERID` of its ADD.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME` of its ADD.
    pub ifname: String,
}

/// The attachments named in the configuration, each once: those under either key, as sparing one too many
/// does less harm than cutting off a container.
///
/// # Errors
/// Code 7 for an entry that is none, and when neither key is there: a malformed call must not be read as
/// "nothing is in use". `null` is Go's empty list and does mean that.
pub(crate) fn valid_attachments(conf: &NetConf) -> Result<Vec<ValidAttachment>, CniError> {
    let given: Vec<(&str, &Value)> = KEYS
        .into_iter()
        .filter_map(|key| Some((key, conf.get(key)?)))
        .collect();
    if given.is_empty() {
        let [key, _] = KEYS;
        return Err(CniError::invalid_config(format!(
            "GC needs the list of attachments in use, and {key:?} is missing; nothing was removed"
        )));
    }
    let mut valid = BTreeSet::new();
    for (key, value) in given {
        valid.extend(list(value).map_err(|problem| {
            CniError::invalid_config(format!("{key:?} {problem}; nothing was removed"))
        })?);
    }
    Ok(valid.into_iter().collect())
}

fn list(value: &Value) -> Result<Vec<ValidAttachment>, String> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let list: Vec<ValidAttachment> =
        keys::from_value(value.clone()).map_err(|cause| cause.to_string())?;
    match list
        .iter()
        .find(|entry| entry.container_id.is_empty() || entry.ifname.is_empty())
    {
        Some(entry) => Err(format!("has an entry with an empty name, {entry:?}")),
        None => Ok(list),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use serde_json::json;

    fn read(members: &Value) -> Result<Vec<String>, CniError> {
        let mut conf = json!({"cniVersion": "1.1.0", "name": "n1"});
        let object = conf.as_object_mut().unwrap();
        object.extend(members.as_object().unwrap().clone());
        let valid = valid_attachments(&conf.to_string().parse().unwrap())?;
        let names = valid.into_iter();
        Ok(names
            .map(|entry| format!("{}/{}", entry.container_id, entry.ifname))
            .collect())
    }

    #[test]
    fn either_key_or_both() {
        let one = json!([{"containerID": "c1", "ifname": "eth0"}]);
        let two = json!([{"containerID": "c2", "ifname": "eth0"}, {"containerid": "c1", "IFNAME": "eth0"}]);
        for (members, expected) in [
            (json!({"cni.dev/valid-attachments": one}), vec!["c1/eth0"]),
            (json!({"cni.dev/attachments": one}), vec!["c1/eth0"]),
            (json!({"CNI.DEV/Attachments": one}), vec!["c1/eth0"]),
            (
                json!({"cni.dev/valid-attachments": one, "cni.dev/attachments": one}),
                vec!["c1/eth0"],
            ),
            (
                json!({"cni.dev/valid-attachments": one, "cni.dev/attachments": two}),
                vec!["c1/eth0", "c2/eth0"],
            ),
            (
                json!({"cni.dev/valid-attachments": null, "cni.dev/attachments": one}),
                vec!["c1/eth0"],
            ),
        ] {
            assert_eq!(read(&members).unwrap(), expected, "{members}");
        }
    }

    #[test]
    fn null_and_the_empty_list_are_no_attachment() {
        for empty in [json!(null), json!([])] {
            let members = json!({"cni.dev/valid-attachments": empty});
            assert_eq!(read(&members).unwrap(), Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_no_list_of_attachments_is_refused() {
        let error = read(&json!({"cni.dev/valid": []})).unwrap_err();
        assert!(error.code == 7 && error.msg.contains("cni.dev/valid-attachments"));
        for wrong in [
            json!({}),
            json!("c1"),
            json!(["c1"]),
            json!([null]),
            json!([{"containerID": "c1"}]),
            json!([{"containerID": "c1", "ifname": null}]),
            json!([{"containerID": "", "ifname": "eth0"}]),
            json!([{"containerID": "c1", "ifname": 0}]),
        ] {
            let members = json!({"cni.dev/attachments": wrong});
            let error = read(&members).unwrap_err();
            assert_eq!(error.code, 7, "{wrong}");
            assert!(error.msg.contains("cni.dev/attachments"), "{error}");
        }
    }
}
