//! What is in place on the node, bridge by bridge: the facts that several commands show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::Serialize;

use super::Failure;
use crate::datapath::{self, Inspection, Pod, Record, Rules, Tier, Way, view};
use crate::names;
use crate::netlink::link::Link;
use crate::netlink::{MacAddress, Netlink, address};
use crate::node;
use crate::state::{self, Attachment};

/// One bridge with its NIC and its pods.
#[derive(Debug, Serialize)]
pub struct Bridge {
    /// The bridge's name.
    pub name: String,
    /// The NIC by which its pods' packets leave.
    pub nic: Option<String>,
    /// The node's address: what masqueraded packets leave with.
    pub address: Option<Ipv4Addr>,
    /// MAC of the NIC.
    pub mac: Option<MacAddress>,
    /// MTU of the NIC, in bytes.
    pub mtu: Option<u32>,
    /// `{"ebpf": "tcx"}`, `{"ebpf": "cls_bpf"}` or `"netfilter"`.
    pub tier: Option<Tier>,
    /// Which programs wrote the rules of the netfilter tier: `nft`, `iptables` (and ebtables), `iptables_alone`.
    pub rules: Option<Rules>,
    /// What these rules do not check.
    pub unchecked: &'static [&'static str],
    /// Why it is not eBPF, if that was tried.
    pub why: Option<String>,
    /// Of the eBPF tier.
    pub programs: Option<Programs>,
    /// First and last port that masqueraded flows are sent from (eBPF tier).
    pub ports: Option<(u16, u16)>,
    /// How many of these are not given to new flows, because others on the node use them (eBPF tier).
    pub reserved_ports: Option<u32>,
    /// Destinations that the masquerade policy tells apart.
    pub policy_prefixes: Option<usize>,
    /// How many pods are attached.
    pub pods: usize,
    /// Packets by reason (eBPF tier).
    pub counters: Vec<Counter>,
    /// What is wrong, one sentence each.
    pub problems: Vec<Problem>,
    /// What the next call mends, and packets do not miss until then.
    pub notes: Vec<String>,
}

/// Something that is wrong with a bridge.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Problem {
    /// One sentence.
    pub what: String,
    /// What mends it, where the next ADD does not.
    #[serde(skip)]
    pub fix: Option<String>,
}

/// The eBPF programs of a bridge.
#[derive(Debug, Serialize)]
pub struct Programs {
    /// Where maps, programs and links are pinned.
    pub pins: String,
    /// Names the build of the programs that are in place.
    pub build: String,
    /// Whether that is the build that this binary carries.
    pub current: bool,
}

/// Packets that ended for one reason.
#[derive(Debug, Serialize)]
pub struct Counter {
    /// The reason's name.
    pub reason: &'static str,
    /// Whether such packets are dropped.
    pub dropped: bool,
    /// How many since the maps were made.
    pub packets: u64,
}

/// Looks at every bridge of ours.
pub async fn survey(netlink: &Netlink) -> Result<Vec<Bridge>, Failure> {
    let links = netlink.links().await.map_err(|error| Failure::of(&error))?;
    let nics: BTreeMap<String, String> = node::remembered().into_iter().collect();
    let mut bridges = Vec::new();
    let mut names = names_of_bridges(&nics);
    let marked = links.iter().filter(|it| it.is_bridge() && it.is_marked());
    names.extend(marked.map(|link| link.name.clone()));
    for name in names {
        bridges.push(look_at(netlink, &links, &name, nics.get(&name)).await);
    }
    if let Some(first) = bridges.first_mut() {
        match node::missing(netlink).await {
            Ok(missing) => {
                let (spare, missing): (Vec<_>, Vec<_>) =
                    missing.into_iter().partition(|it| it.is_spare);
                first.notes.extend(spare.into_iter().map(|it| it.what));
                for it in missing {
                    if first.problems.iter().all(|known| known.what != it.what) {
                        first.problem(it.what);
                    }
                }
            }
            Err(error) => first.problem(Failure::of(&error).0),
        }
    }
    Ok(bridges)
}

/// Bridges that have a datapath, or a NIC, or a pod.
pub fn names_of_bridges(nics: &BTreeMap<String, String>) -> BTreeSet<String> {
    let recorded = Record::all().into_iter().map(|(name, _)| name);
    let attached = state::everything().into_iter().map(|pod| pod.bridge);
    recorded
        .chain(attached)
        .chain(nics.keys().cloned())
        .collect()
}

async fn look_at(netlink: &Netlink, links: &[Link], name: &str, nic: Option<&String>) -> Bridge {
    let record = Record::read(name);
    // In the order of their addresses, so that problems come in the same order every time.
    let mut attachments = state::everything();
    attachments.retain(|pod| pod.bridge == name);
    let named = |name: &str| links.iter().find(|link| link.name == name);
    let (bridge, port) = (named(name), nic.and_then(|nic| named(nic)));
    let rules = record
        .as_ref()
        .filter(|record| record.tier == Tier::Netfilter)
        .map(|record| record.rules);
    let mut this = Bridge {
        name: name.to_owned(),
        nic: nic.cloned(),
        address: None,
        mac: port.and_then(|link| link.mac),
        mtu: port.map(|link| link.mtu),
        tier: record.as_ref().map(|record| record.tier),
        rules,
        unchecked: rules.map(Rules::unchecked).unwrap_or_default(),
        why: record.and_then(|record| record.why),
        programs: None,
        ports: None,
        reserved_ports: None,
        policy_prefixes: datapath::prefixes(name),
        pods: attachments.len(),
        counters: Vec::new(),
        problems: Vec::new(),
        notes: Vec::new(),
    };
    match this.tier {
        Some(Tier::Ebpf(_)) => this.read_ebpf(),
        Some(Tier::Netfilter) => {}
        None => this.problem(format!(
            "{name} has no datapath: nothing of what its pods send is masqueraded"
        )),
    }
    match (bridge, port) {
        (Some(bridge), Some(nic)) => {
            this.look_at_links(netlink, bridge, nic).await;
            // The programs know it themselves; the rules of the netfilter tier take the NIC's first.
            if this.address.is_none() {
                this.address = first_address(netlink, nic).await;
            }
            this.look_at_pods(netlink, bridge, nic, links, &attachments)
                .await;
        }
        (None, _) => this.problem(format!("the bridge {name} is gone")),
        (_, None) if nic.is_some() => {
            this.problem(format!(
                "the NIC {} is gone",
                this.nic.clone().unwrap_or_default()
            ));
        }
        _ => {
            this.problem("which NIC it is for is not known: its record in /run/azure-vnet is lost");
        }
    }
    this
}

async fn first_address(netlink: &Netlink, nic: &Link) -> Option<Ipv4Addr> {
    let addresses = netlink.addresses_on(nic).await.ok()?;
    let mut here = addresses.iter().filter_map(address::ipv4_net);
    here.next().map(|net| net.addr())
}

impl Bridge {
    fn problem(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.problems.push(Problem { what, fix: None });
    }

    /// No ADD of another pod mends this.
    fn problem_with_fix(&mut self, what: String, fix: String) {
        let fix = Some(fix);
        self.problems.push(Problem { what, fix });
    }

    fn read_ebpf(&mut self) {
        let builds = view::pinned_builds(&self.name);
        self.programs = builds.first().map(|build| Programs {
            pins: view::pins(&self.name).display().to_string(),
            current: builds.iter().any(|build| build == view::build()),
            build: build.clone(),
        });
        match view::uplink(&self.name) {
            Ok(Some(uplink)) => {
                self.address = Some(uplink.address.into());
                self.ports = Some((uplink.port_min, uplink.port_max));
            }
            Ok(None) => self.problem("its eBPF maps are not pinned: the next ADD makes them anew"),
            Err(error) => self.problem(Failure::of(&error).0),
        }
        match view::reserved_ports(&self.name) {
            Ok(count) => self.reserved_ports = count,
            Err(error) => self.problem(Failure::of(&error).0),
        }
        match datapath::counters(&self.name) {
            Ok(counters) => self.counters = counters.into_iter().map(Counter::new).collect(),
            Err(error) => self.problem(Failure::of(&error).0),
        }
    }

    async fn look_at_links(&mut self, netlink: &Netlink, bridge: &Link, nic: &Link) {
        match node::defects(netlink, bridge, nic).await {
            Ok(defects) => defects.into_iter().for_each(|it| self.problem(it)),
            Err(error) => self.problem(Failure::of(&error).0),
        }
    }

    async fn look_at_pods(
        &mut self,
        netlink: &Netlink,
        bridge: &Link,
        nic: &Link,
        links: &[Link],
        attachments: &[Attachment],
    ) {
        let inspection = match Inspection::of(&bridge.name) {
            Ok(inspection) => inspection,
            Err(error) => return self.problem(Failure::of(&error).0),
        };
        for attachment in attachments {
            let who = who(attachment);
            let port = links.iter().find(|link| link.name == attachment.host_veth);
            let Some(port) = port else {
                let what = format!("{who}: its link {} is gone", attachment.host_veth);
                let fix =
                    "azure-vnet gc, and if it says so again: delete the pod, which has no network";
                self.problem_with_fix(what, fix.into());
                continue;
            };
            let pod = Pod {
                host_veth: attachment.host_veth.clone(),
                ifindex: port.index,
                network: attachment.network.clone(),
                container: names::container(&attachment.container_id),
                address: attachment.address,
                mac: attachment.mac,
            };
            match inspection
                .defects(netlink, Way { nic, bridge, port }, &pod)
                .await
            {
                Ok(defects) => {
                    for defect in defects {
                        if self.problems.iter().all(|known| known.what != defect) {
                            self.problem(defect);
                        }
                    }
                }
                Err(error) => self.problem(format!("{who}: {}", Failure::of(&error).0)),
            }
        }
    }
}

impl Counter {
    fn new((reason, packets): (azure_vnet_abi::Reason, u64)) -> Self {
        Self {
            reason: reason.name(),
            dropped: !reason.passes(),
            packets,
        }
    }
}

/// What people call a pod: its Kubernetes name, or its container, and its address.
pub fn who(attachment: &Attachment) -> String {
    format!("{} ({})", label(attachment), attachment.address)
}

/// The pod's Kubernetes name, or the beginning of its container ID.
pub fn label(attachment: &Attachment) -> String {
    match &attachment.pod {
        Some(pod) => pod.clone(),
        None => attachment.container_id.chars().take(12).collect(),
    }
}
