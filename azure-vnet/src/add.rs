//! ADD: a pod gets an address of the virtual network.
//!
//! Every step that changes something returns a guard; leaving early takes all of them back.

use azure_vnet_cni::Add;
use azure_vnet_cni::reply::{Dns, Interface, Ip, Route, Success};

use crate::apply::{self, Applied};
use crate::config::Config;
use crate::datapath::{self, Datapath, Depth, Pod};
use crate::error::Error;
use crate::health::firewall;
use crate::lease::Lease;
use crate::names;
use crate::netlink::{MacAddress, Netlink};
use crate::netns::NetNs;
use crate::node::{self, Node, NodeWanted};
use crate::plan::{self, Plan, PodAddress, PodRoute};
use crate::pod_mac;
use crate::state::{self, Attachment};
use crate::uplink::uplink;

/// Kubernetes has no longer name: a DNS subdomain (RFC 1123).
const LONGEST_POD_NAME: usize = 253;

/// Attaches the container and says what it was given.
pub async fn add(request: &Add) -> Result<Success, Error> {
    let config = Config::read(&request.conf)?;
    if config.has_ips_to_route {
        tracing::warn!(
            "ipsToRouteViaHost is not needed: pods reach every address of the node; remove it"
        );
    }
    let previous = request.conf.prev_result()?;
    let netns = NetNs::of_container(&request.netns)?;
    let host = Netlink::current()?;
    let pod = Netlink::in_netns(&netns)?;
    apply::refuse_existing(&netns, &pod, &request.ifname).await?;
    let mac = pod_mac::requested(&config, request, &host).await?;

    let is_first = node::remembered().is_empty();
    let lease = Lease::request(&config.ipam, &request.path, &request.conf)?;
    let (node, look) = node::ensure(&host, &wanted(&config, &lease)).await?;
    let uplink = uplink(&config, lease.address.trunc(), &node);
    let datapath = Datapath::ensure(config.masquerade.datapath, uplink)?;

    let host_veth = names::host_veth(request.conf.name(), &request.container_id, &request.ifname);
    let plan = plan(&host_veth, &request.ifname, &lease, &node, mac)?;
    let remembered = state::remember(attachment(&config, request, &plan, &lease))?;
    let mut served = datapath.undertake(&host_veth, lease.address.addr());
    let applied = apply::apply(&host, &pod, &netns, &plan).await?;
    let seen = node::mend_pods(&host, look).await?;
    datapath::tell_nics(&seen.addresses());
    served.serve(&pod_of(request, &applied, &plan, &lease), &seen)?;
    datapath::tell_ports(&host, &seen, Depth::Ports).await;

    served.commit();
    applied.commit();
    remembered.commit();
    if is_first {
        firewall::warn();
    }
    Ok(success(&config, request, &plan, previous, lease.commit()))
}

fn wanted(config: &Config, lease: &Lease<'_>) -> NodeWanted {
    NodeWanted {
        bridge: config.bridge.clone(),
        master: config.master.clone(),
        mac: lease.result.nic.as_deref().and_then(|mac| mac.parse().ok()),
        subnet: lease.address.trunc(),
    }
}

fn plan(
    host_veth: &str,
    ifname: &str,
    lease: &Lease<'_>,
    node: &Node,
    mac: Option<MacAddress>,
) -> Result<Plan, Error> {
    let result = &lease.result;
    let addresses: Vec<PodAddress> = result
        .ips
        .iter()
        .map(|ip| PodAddress {
            address: ip.address,
            gateway: ip.gateway,
        })
        .collect();
    let routes: Vec<PodRoute> = result
        .routes
        .iter()
        .map(|route| PodRoute {
            to: route.dst,
            via: route.gw,
        })
        .collect();
    let attachment = plan::Attachment {
        host_veth,
        ifname,
        addresses: &addresses,
        routes: &routes,
    };
    let plan = Plan::new(&attachment, node)?;
    Ok(match mac {
        Some(mac) => plan.with_pod_mac(mac),
        None => plan,
    })
}

fn attachment(config: &Config, request: &Add, plan: &Plan, lease: &Lease<'_>) -> Attachment {
    Attachment {
        network: request.conf.name().to_owned(),
        container_id: request.container_id.clone(),
        ifname: request.ifname.clone(),
        netns: request.netns.clone(),
        host_veth: plan.veth.host_name.clone(),
        bridge: plan.veth.bridge_name.clone(),
        address: lease.address.addr(),
        mac: plan.veth.pod_mac,
        host_ports: config.host_ports.clone(),
        pod: pod_name(request),
    }
}

/// For people who look later; nothing else goes by it.
fn pod_name(request: &Add) -> Option<String> {
    let fits = |value: &&str| (1..=LONGEST_POD_NAME).contains(&value.len());
    let said = |key| request.args.get(key).filter(fits);
    Some(format!(
        "{}/{}",
        said("K8S_POD_NAMESPACE")?,
        said("K8S_POD_NAME")?
    ))
}

fn pod_of(request: &Add, applied: &Applied<'_>, plan: &Plan, lease: &Lease<'_>) -> Pod {
    Pod {
        network: request.conf.name().to_owned(),
        container: names::container(&request.container_id),
        host_veth: plan.veth.host_name.clone(),
        ifindex: applied.host.index,
        address: lease.address.addr(),
        mac: plan.veth.pod_mac,
    }
}

/// The result: what plugins before this one reported, then the bridge, the host's end and the
/// pod's end of the veth, and the addresses on the latter.
fn success(
    config: &Config,
    request: &Add,
    plan: &Plan,
    previous: Option<Success>,
    leased: Success,
) -> Success {
    let mut success = previous.unwrap_or_default();
    let interface = |name: &str, mac: MacAddress, sandbox: Option<&str>| Interface {
        name: name.to_owned(),
        mac: mac.to_string(),
        sandbox: sandbox.map(str::to_owned),
        mtu: Some(plan.veth.mtu),
        ..Interface::default()
    };
    let veth = &plan.veth;
    success.interfaces.extend([
        interface(&veth.bridge_name, node::ROUTER_MAC, None),
        interface(&veth.host_name, veth.host_mac, None),
        interface(&veth.pod_name, veth.pod_mac, Some(&request.netns)),
    ]);
    let in_pod = success.interfaces.len() - 1;
    success.ips.extend(leased.ips.into_iter().map(|ip| Ip {
        interface: Some(in_pod),
        ..ip
    }));
    success.routes.extend(routes(plan, leased.routes));
    if let Some(dns) = [config.dns.clone(), Some(leased.dns)]
        .into_iter()
        .flatten()
        .find(|dns| *dns != Dns::default())
    {
        success.dns = dns;
    }
    success
}

/// IPAM's routes, and those that the plan added.
fn routes(plan: &Plan, mut leased: Vec<Route>) -> Vec<Route> {
    for route in &plan.routes {
        if leased.iter().all(|known| known.dst.trunc() != route.to) {
            leased.push(Route::new(route.to, route.via));
        }
    }
    leased
}
