//! The address that the runtime asks for, if it asks for a particular one.

use std::net::IpAddr;

use azure_vnet_cni::{Add, CniError};
use serde_json::json;

use crate::pool::Particular;

/// The address of `runtimeConfig.ips`, `args.cni.ips` or `CNI_ARGS`. It goes before `ipam.ipAddress`, which
/// is for every container of the network while this is for one.
///
/// # Errors
/// Code 2 for several addresses or an IPv6 one: an attachment has one IPv4 address.
pub fn requested(request: &Add) -> Result<Option<Particular>, CniError> {
    let Some(requested) = request.requested_ips()? else {
        return Ok(None);
    };
    match requested.value[..] {
        [IpAddr::V4(address)] => Ok(Some(Particular {
            address,
            by: requested.by,
        })),
        _ => Err(
            CniError::unsupported_field(requested.by, &json!(requested.value))
                .with_details("an attachment of this network has one IPv4 address"),
        ),
    }
}
