//! What a DEL and a GC do beside their own work: all that must be so is looked at and put right, for all pods of the node (decision 27).
//! What fails is logged: their own work does not depend on it.

use azure_vnet_cni::NetConf;

use crate::datapath::{self, Depth};
use crate::netlink::Netlink;
use crate::{node, uplink};

/// The node first, then the datapaths, one that is lost before those that are told how the node is. A call that looks at programs
/// puts those of the pods on again as well.
pub async fn mend_all_beside(host: &Netlink, conf: &NetConf, depth: Depth) {
    let seen = node::mend_beside(host).await;
    uplink::revive_beside(host, conf).await;
    datapath::refresh_beside(&seen);
    if depth == Depth::Programs {
        datapath::attach_again_beside();
    }
    datapath::tell_ports(host, &seen, depth).await;
}
