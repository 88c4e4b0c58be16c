//! Which pod an operator means: by address, Kubernetes name, container or link.

use std::net::Ipv4Addr;

use super::{Failure, bridges};
use crate::state::{self, Attachment};

/// Fewer characters of a container ID could be anybody's.
const SHORTEST_ID: usize = 4;

/// The one attachment that `text` means.
pub fn one(text: &str) -> Result<Attachment, Failure> {
    let all = state::everything();
    let mut found: Vec<&Attachment> = all.iter().filter(|pod| is_meant(pod, text)).collect();
    match (found.pop(), found.as_slice()) {
        (Some(pod), []) => Ok(pod.clone()),
        (Some(pod), others) => {
            let all = others.iter().copied().chain([pod]);
            let all: Vec<String> = all.map(bridges::who).collect();
            Err(Failure::new(format!(
                "{text:?} means several pods, say the address: {}",
                all.join(", ")
            )))
        }
        (None, _) => Err(Failure::new(format!(
            "no pod of this node has {text:?} as its address, name, container ID or link \
             (azure-vnet pods lists them)"
        ))),
    }
}

/// Whether `text` is the attachment's address, its pod's name with or without namespace, the beginning of its
/// container ID, or its host veth.
pub fn is_meant(attachment: &Attachment, text: &str) -> bool {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return attachment.address == address;
    }
    let named = attachment.pod.as_deref().is_some_and(|pod| {
        pod == text || pod.split_once('/').is_some_and(|(_, name)| name == text)
    });
    named
        || attachment.host_veth == text
        || (text.len() >= SHORTEST_ID && attachment.container_id.starts_with(text))
}
