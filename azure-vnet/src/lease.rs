//! The address that IPAM lends to an attachment, and the promise to give it back.

use std::net::Ipv4Addr;
use std::time::Duration;

use azure_vnet_cni::{
    CniError, NetConf, code,
    delegate::{DEFAULT_LIMIT, Delegate},
    pod_address,
    reply::Success,
};
use ipnet::{IpNet, Ipv4Net};

/// Runtimes ask for the status every few seconds, and may wait for it in the middle of other work.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// An address on loan. Dropping it gives the address back; [`Lease::commit`] keeps it.
pub struct Lease<'a> {
    delegate: Delegate<'a>,
    /// Everything IPAM answered: addresses, routes, DNS.
    pub result: Success,
    /// The pod's address with the subnet's prefix.
    pub address: Ipv4Net,
    /// Where the pod's default route goes.
    pub gateway: Ipv4Addr,
    kept: bool,
}

impl<'a> Lease<'a> {
    /// Asks the IPAM plugin `ipam` for an address. A failed request is followed by DEL: the plugin
    /// may have died between taking an address and saying so (SPEC 1.0.0, section 4).
    pub fn request(ipam: &str, path: &str, conf: &'a NetConf) -> Result<Self, CniError> {
        let delegate = find(ipam, path, conf, DEFAULT_LIMIT)?;
        let answer = delegate.add().and_then(|result| {
            usable(&result).map(|(address, gateway)| (result, address, gateway))
        });
        match answer {
            Ok((result, address, gateway)) => Ok(Self {
                delegate,
                result,
                address,
                gateway,
                kept: false,
            }),
            Err(error) => {
                give_back(&delegate);
                Err(error)
            }
        }
    }

    /// The attachment stands: its DEL gives the address back.
    pub fn commit(mut self) -> Success {
        self.kept = true;
        std::mem::take(&mut self.result)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if !self.kept {
            give_back(&self.delegate);
        }
    }
}

/// DEL's half: gives back what the attachment of this call holds.
pub fn release(ipam: &str, path: &str, conf: &NetConf) -> Result<(), CniError> {
    find(ipam, path, conf, DEFAULT_LIMIT)?.del()
}

/// The same for an attachment that no runtime asks about any more.
pub fn release_orphan(
    ipam: &str,
    path: &str,
    conf: &NetConf,
    container_id: &str,
    ifname: &str,
) -> Result<(), CniError> {
    let delegate = find(ipam, path, conf, DEFAULT_LIMIT)?;
    delegate.of_attachment(container_id, ifname, path).del()
}

/// CHECK's half: whether the address is still the attachment's.
pub fn check(ipam: &str, path: &str, conf: &NetConf) -> Result<(), CniError> {
    find(ipam, path, conf, DEFAULT_LIMIT)?.check()
}

/// GC's half: gives back what attachments hold that are not in use.
pub fn collect(ipam: &str, path: &str, conf: &NetConf) -> Result<(), CniError> {
    find(ipam, path, conf, DEFAULT_LIMIT)?.gc()
}

/// STATUS's half: whether there is an address for one more attachment.
pub fn status(ipam: &str, path: &str, conf: &NetConf) -> Result<(), CniError> {
    find(ipam, path, conf, STATUS_LIMIT)?.status()
}

/// The IPAM plugin: our own is called, where it is found as this very file, and any other executed.
fn find<'a>(
    ipam: &str,
    path: &str,
    conf: &'a NetConf,
    limit: Duration,
) -> Result<Delegate<'a>, CniError> {
    Ok(Delegate::find(ipam, path, conf, limit)?.or_within(&azure_vnet_ipam::LIBRARY))
}

fn give_back(delegate: &Delegate<'_>) {
    if let Err(error) = delegate.del() {
        tracing::warn!(
            "an address may stay reserved until the runtime's DEL: {}",
            error.msg
        );
    }
}

fn usable(result: &Success) -> Result<(Ipv4Net, Ipv4Addr), CniError> {
    let lacks = |what: &str| {
        CniError::new(
            code::DELEGATE,
            format!("the IPAM plugin's answer has no {what}"),
        )
    };
    for ip in &result.ips {
        if let IpNet::V4(net) = ip.address
            && let Some(why) = pod_address::unfit_in(net.addr(), net.trunc())
        {
            return Err(CniError::new(
                code::DELEGATE,
                format!(
                    "the IPAM plugin's answer has the address {net}, which no pod can have: {why}"
                ),
            ));
        }
    }
    let (address, gateway) = result
        .ips
        .iter()
        .find_map(|ip| match ip.address {
            IpNet::V4(address) => Some((address, ip.gateway)),
            IpNet::V6(_) => None,
        })
        .ok_or_else(|| lacks("IPv4 address"))?;
    match gateway {
        Some(std::net::IpAddr::V4(gateway)) => Ok((address, gateway)),
        _ => Err(lacks("IPv4 gateway")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use azure_vnet_cni::Version;
    use serde_json::json;

    use super::*;

    fn answer(address: &str) -> Result<(Ipv4Net, Ipv4Addr), CniError> {
        let answer =
            json!({"cniVersion": "1.0.0", "ips": [{"address": address, "gateway": "10.0.0.1"}]});
        usable(&Success::from_json(&answer, Version::V1_0_0).unwrap())
    }

    #[test]
    fn addresses_that_no_pod_can_have_are_refused() {
        for address in [
            "127.0.0.9/8",
            "0.0.0.9/8",
            "169.254.7.9/16",
            "224.0.0.9/4",
            "255.255.255.254/4",
            "10.0.0.9/0",
            "10.0.0.0/24",
            "10.0.0.255/24",
        ] {
            let error = answer(address).unwrap_err();
            assert_eq!(error.code, code::DELEGATE);
            assert!(error.msg.contains(address), "{error}");
        }
        for address in ["10.0.0.9/24", "10.0.0.7/32"] {
            assert_eq!(answer(address).unwrap().0.to_string(), address);
        }
    }
}
