//! Carries out a [`Plan`]: the veth pair, what is in the pod, what the bridge has to know. Until
//! [`Applied::commit`], everything is taken back when the guard is dropped.

mod claim;
mod removal;

pub use removal::{Removal, remove};

use claim::claim;
use removal::remove_on_own_runtime;

use crate::netlink::link::{self, LOOPBACK, Link, NewVeth};
use crate::netlink::route::NewRoute;
use crate::netlink::{MacAddress, Netlink, NetlinkError, address, gone_is_fine, route};
use crate::netns::{NetNs, NetNsError};
use crate::node;
use crate::plan::Plan;
use crate::sysctl::SysctlError;

/// Metric of a route that another interface of the pod has already: the pod keeps the one it had
/// and gets ours as a spare (SPEC 0.4.0: a plugin "should be prepared to skip over its default
/// route"). The interface index is added, which makes it unique.
const SPARE_METRIC: u32 = 1024;

/// Why a pod could not be attached. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The pod has an interface of that name; it was not touched.
    #[error("the interface {ifname} exists already in {}", netns.display())]
    InterfaceExists {
        /// Name from `CNI_IFNAME`.
        ifname: String,
        /// Path of the pod's namespace.
        netns: std::path::PathBuf,
    },
    /// The veth vanished while it was configured: the namespace was deleted.
    #[error("the link {name} vanished while it was configured")]
    Vanished {
        /// Name of the veth end on the node.
        name: String,
    },
    /// The pod's MAC is that of another, which keeps it: usually it is made from the address.
    #[error(
        "the MAC {mac} is in use by {holder}: the configuration asks for one MAC twice, or IPAM gave one address twice \
         because its record was lost meanwhile; then try again"
    )]
    MacInUse {
        /// The MAC of both.
        mac: MacAddress,
        /// Who has it.
        holder: String,
    },
    /// The kernel refused a change.
    #[error("cannot configure the pod's network")]
    Netlink(#[from] NetlinkError),
    /// The pod's namespace cannot be used.
    #[error("cannot configure the pod's network")]
    NetNs(#[from] NetNsError),
    /// A setting in the pod could not be changed.
    #[error("cannot configure the pod's network")]
    Sysctl(#[from] SysctlError),
}

/// An attachment that stands but is not final.
#[derive(Debug)]
#[must_use = "dropping it removes the pod's network"]
pub struct Applied<'a> {
    guard: Guard<'a>,
    /// The veth end on the node, a port of the bridge.
    pub host: Link,
    /// Index of the interface in the pod.
    pub pod_index: u32,
}

/// Takes the plan back, on a connection of its own: that of the call may be what failed.
#[derive(Debug)]
struct Guard<'a> {
    plan: &'a Plan,
    armed: bool,
}

/// Fails if the pod has an interface called `ifname`. Asked before IPAM, so that a repeated ADD
/// cannot cost the first one its address.
pub async fn refuse_existing(netns: &NetNs, pod: &Netlink, ifname: &str) -> Result<(), ApplyError> {
    match pod.link(ifname).await? {
        Some(_) => Err(ApplyError::InterfaceExists {
            ifname: ifname.to_owned(),
            netns: netns.path().to_owned(),
        }),
        None => Ok(()),
    }
}

/// Makes everything of the plan. `host` speaks to the node's namespace, `pod` to that of `netns`.
pub async fn apply<'a>(
    host: &Netlink,
    pod: &Netlink,
    netns: &NetNs,
    plan: &'a Plan,
) -> Result<Applied<'a>, ApplyError> {
    let guard = create_veth(host, pod, netns, plan).await?;
    let applied = Applied::of(guard, host).await?;
    claim(host, &applied.host, &plan.veth).await?;
    netns.run_in(|| {
        plan.sysctls
            .iter()
            .try_for_each(|setting| setting.set().map(drop))
    })??;
    introduce(host, &applied).await?;
    configure(pod, &applied).await?;
    Ok(applied)
}

impl<'a> Applied<'a> {
    /// The veth pair that was just made.
    async fn of(guard: Guard<'a>, host: &Netlink) -> Result<Self, ApplyError> {
        let name = &guard.plan.veth.host_name;
        match host.link(name).await? {
            Some(link) if link.peer.is_some() => Ok(Self {
                guard,
                pod_index: link.peer.unwrap_or_default(),
                host: link,
            }),
            _ => Err(ApplyError::Vanished { name: name.clone() }),
        }
    }

    /// Keeps the attachment.
    pub fn commit(mut self) -> Link {
        self.guard.armed = false;
        self.host.clone()
    }

    /// Takes the attachment back and says whether that went well.
    pub async fn undo(mut self, host: &Netlink) -> Vec<NetlinkError> {
        self.guard.armed = false;
        remove(host, &Removal::from(self.guard.plan)).await
    }
}

impl<'a> Guard<'a> {
    fn over(plan: &'a Plan) -> Self {
        Self { plan, armed: true }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let name = &self.plan.veth.host_name;
        let removal = Removal::from(self.plan);
        // A runtime cannot be waited for from inside itself; a new thread is in our namespace too.
        let removed = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new();
            let thread = thread.spawn_scoped(scope, || remove_on_own_runtime(&removal))?;
            let panicked = |_| Err(std::io::Error::other("it panicked"));
            thread.join().unwrap_or_else(panicked)
        });
        match removed {
            Ok(problems) => {
                for problem in problems {
                    tracing::warn!("undoing the attachment of {name}: {problem}");
                }
            }
            Err(error) => tracing::error!("cannot undo the attachment of {name}: {error}"),
        }
    }
}

/// Makes the pair. A host end that is there while the pod has no such interface is what a call
/// for this same attachment left when it was killed: it goes.
async fn create_veth<'a>(
    host: &Netlink,
    pod: &Netlink,
    netns: &NetNs,
    plan: &'a Plan,
) -> Result<Guard<'a>, ApplyError> {
    let veth = &plan.veth;
    let request = link::create_veth(&NewVeth {
        host_name: &veth.host_name,
        host_mac: veth.host_mac,
        bridge: veth.bridge,
        pod_name: &veth.pod_name,
        pod_mac: veth.pod_mac,
        pod_netns: netns,
        mtu: veth.mtu,
    });
    match host.run(request.clone()).await {
        Err(error) if error.is_exists() => {
            refuse_existing(netns, pod, &veth.pod_name).await?;
            tracing::warn!(
                "removing {}, left by an ADD that did not end",
                veth.host_name
            );
            gone_is_fine(host.run(link::delete(&veth.host_name)).await)?;
            let guard = Guard::over(plan);
            host.run(request).await?;
            Ok(guard)
        }
        Err(error @ NetlinkError::Refused { .. }) => Err(error.into()),
        // Whoever has no answer does not know whether the pair was made.
        outcome => {
            let guard = Guard::over(plan);
            outcome?;
            Ok(guard)
        }
    }
}

/// Makes a pod's of the bridge port, before the link has a carrier.
async fn introduce(host: &Netlink, applied: &Applied<'_>) -> Result<(), ApplyError> {
    let (port, name) = (applied.host.index, &applied.guard.plan.veth.host_name);
    let port = link::make_pod_port(port, name, node::has_ipv6());
    Ok(host.run(port).await?)
}

/// Configures the pod's side: loopback, addresses, link, and then the routes that need them.
async fn configure(pod: &Netlink, applied: &Applied<'_>) -> Result<(), ApplyError> {
    let plan = applied.guard.plan;
    let (index, name) = (applied.pod_index, &plan.veth.pod_name);
    let routes = &plan.routes;
    let mut requests = vec![link::set_up(LOOPBACK, "lo")];
    for address in &plan.addresses {
        requests.push(address::add(index, name, *address));
    }
    requests.push(link::set_up(index, name));
    let before = requests.len();
    requests.extend(routes.iter().map(|entry| route::add(index, name, entry)));

    let mut outcomes = pod.run_each(requests).await.into_iter();
    outcomes.by_ref().take(before).collect::<Result<(), _>>()?;
    for (outcome, entry) in outcomes.zip(routes) {
        match outcome {
            Err(error) if error.is_exists() => {
                let spare = NewRoute {
                    metric: SPARE_METRIC.saturating_add(index),
                    ..entry.clone()
                };
                pod.run(route::add(index, name, &spare)).await?;
            }
            outcome => outcome?,
        }
    }
    Ok(())
}
