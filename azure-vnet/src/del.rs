//! DEL: everything that an ADD made goes, whatever is left of it.
//!
//! Nothing stops it half-way: what fails is collected and reported when all has been tried. The
//! address goes back last, so that nobody has it while anything here still knows it.

use azure_vnet_cni::Del;

use crate::apply::{self, Removal};
use crate::config;
use crate::datapath;
use crate::error::Error;
use crate::lease;
use crate::names;
use crate::netlink::Netlink;
use crate::state;

/// Detaches the container. Without namespace, link or record it is as good: they may be gone.
pub async fn del(request: &Del) -> Result<(), Error> {
    let host_veth = names::host_veth(request.conf.name(), &request.container_id, &request.ifname);
    let attachment = state::find(&host_veth);
    let mut failures = Failures::default();

    if let Some(attachment) = &attachment {
        let bridge = &attachment.bridge;
        failures.collect(datapath::remove_pod(bridge, &host_veth, attachment.address));
    }
    let removal = Removal {
        host_veth: host_veth.clone(),
        bridge: attachment
            .as_ref()
            .map(|attachment| attachment.bridge.clone()),
        addresses: attachment
            .iter()
            .map(|attachment| attachment.address.into())
            .collect(),
    };
    match Netlink::current() {
        Ok(host) => {
            for error in apply::remove(&host, &removal).await {
                failures.collect(Err::<(), _>(error));
            }
        }
        Err(error) => failures.collect(Err::<(), _>(error)),
    }
    match config::ipam_of(&request.conf) {
        Ok(ipam) => failures.collect(lease::release(&ipam, &request.path, &request.conf)),
        Err(error) => failures.collect(Err::<(), _>(error)),
    }
    if failures.is_empty() {
        failures.collect(state::forget(&host_veth));
    }
    failures.into_result()
}

/// What went wrong so far.
#[derive(Default)]
struct Failures(Vec<Error>);

impl Failures {
    fn collect(&mut self, result: Result<(), impl Into<Error>>) {
        if let Err(error) = result {
            self.0.push(error.into());
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first failure is the answer, as a runtime takes only one; the others are logged.
    fn into_result(self) -> Result<(), Error> {
        let mut failures = self.0.into_iter();
        let first = failures.next();
        for error in failures {
            tracing::warn!("{}", error.chain());
        }
        first.map_or(Ok(()), Err)
    }
}
