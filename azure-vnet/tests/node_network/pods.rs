//! Pods of a test, attached as an ADD does it, and what they say to each other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use azure_vnet::apply::{ApplyError, apply, refuse_existing};
use azure_vnet::names;
use azure_vnet::netlink::Netlink;
use azure_vnet::netns::NetNs;
use azure_vnet::node::Node;
use azure_vnet::plan::{self, Attachment, Plan, PodAddress};
use azure_vnet::state;
use azure_vnet_cni::{Environment, Request};

use crate::lab::{NIC_MAC, ensure, namespace, netlink, plain_node, run, wanted};

/// How long a connection may take that does come about.
const LIMIT: Duration = Duration::from_secs(10);

/// A pod and its namespace.
pub struct Pod {
    pub netns: NetNs,
    pub address: &'static str,
    pub host_veth: String,
}

/// A node that is ready for pods.
pub fn ready_node(mtu: u32) -> Node {
    plain_node(mtu);
    settle()
}

/// The part of an ADD that makes the node's network.
pub fn settle() -> Node {
    run(async { ensure(&netlink(), &wanted()).await }).unwrap()
}

pub fn plan_for(node: &Node, container: &str, ifname: &str, address: &str) -> Plan {
    let host_veth = names::host_veth("azure", container, ifname);
    let mut gateway = node.primary.octets();
    gateway[3] = 1;
    let attachment = Attachment {
        host_veth: &host_veth,
        ifname,
        addresses: &[PodAddress {
            address: address.parse().unwrap(),
            gateway: Some(gateway.into()),
        }],
        routes: &[],
    };
    Plan::new(&attachment, node).unwrap()
}

/// ADD's part: makes the plan and keeps it.
pub fn attach(netns: &NetNs, container: &str, plan: &Plan) -> Result<(), ApplyError> {
    run(async {
        let host = netlink();
        let pod = Netlink::in_netns(netns)?;
        refuse_existing(netns, &pod, &plan.veth.pod_name).await?;
        let remembered = state::remember(record(container, plan)).unwrap();
        let applied = apply(&host, &pod, netns, plan).await?;
        crate::lab::mend(&host).await.unwrap();
        applied.commit();
        remembered.commit();
        Ok(())
    })
}

pub fn record(container: &str, plan: &Plan) -> state::Attachment {
    let veth = &plan.veth;
    state::Attachment {
        network: "azure".to_owned(),
        container_id: container.to_owned(),
        ifname: veth.pod_name.clone(),
        netns: format!("/run/netns/{container}"),
        host_veth: veth.host_name.clone(),
        bridge: veth.bridge_name.clone(),
        address: plan::address_behind(veth.host_mac).unwrap(),
        mac: veth.pod_mac,
        host_ports: Vec::new(),
        pod: None,
    }
}

/// A pod in a namespace of the container's name, with an address of the node's subnet.
pub fn pod(node: &Node, container: &str, address: &'static str) -> Pod {
    let netns = namespace(container);
    let plan = plan_for(node, container, "eth0", &format!("{address}/24"));
    attach(&netns, container, &plan).unwrap();
    Pod {
        netns,
        address,
        host_veth: plan.veth.host_name,
    }
}

/// Fills the address pool anew with these, which are on no link, and gives the first of them to somebody.
pub fn pool(addresses: &[&str]) {
    let secondary = |address: &&str| serde_json::json!({ "Address": address, "IsPrimary": false });
    let list = serde_json::json!({ "Interfaces": [{
        "MacAddress": NIC_MAC.replace(':', ""), "IsPrimary": true,
        "IPSubnets": [{
            "Prefix": "10.0.0.0/24",
            "IPAddresses": addresses.iter().map(secondary).collect::<Vec<_>>(),
        }],
    }] });
    let file = "/run/interfaces.json";
    std::fs::write(file, list.to_string()).unwrap();
    for record in ["ipam.json", "ipam.json.backup"] {
        let _ = std::fs::remove_file(format!("/run/azure-vnet/{record}"));
    }
    let conf = serde_json::json!({
        "cniVersion": "1.0.0", "name": "azure", "type": "azure-vnet",
        "ipam": { "type": "azure-vnet-ipam", "environment": "file", "file": file },
    });
    let environment = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "somebody"),
        ("CNI_NETNS", "/run/netns/somebody"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
    ];
    let environment = environment.into_iter().collect::<Environment>();
    let request = Request::read(&environment, conf.to_string().into_bytes());
    azure_vnet_ipam::serve(request.unwrap().unwrap()).unwrap();
}

/// The namespace of the test.
pub fn here() -> NetNs {
    NetNs::open_any("/proc/thread-self/ns/net").unwrap()
}

/// What the NIC is connected to.
pub fn fabric() -> NetNs {
    NetNs::open("/run/netns/fabric").unwrap()
}

/// The client says something to the server at this address, and hears the answer.
#[track_caller]
pub fn talk(client: &NetNs, server: &NetNs, address: &str) {
    let (mut out, mut back) = connect(client, server, address);
    out.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    back.read_exact(&mut heard).unwrap();
    back.write_all(&heard).unwrap();
    out.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

/// A connection of the client to the server at this address: both ends of it.
#[track_caller]
pub fn connect(client: &NetNs, server: &NetNs, address: &str) -> (TcpStream, TcpStream) {
    let listener = server.run_in(|| TcpListener::bind((address, 0)));
    let listener = listener.unwrap().unwrap();
    let to: SocketAddr = listener.local_addr().unwrap();
    let connected = client.run_in(|| TcpStream::connect_timeout(&to, LIMIT));
    let out = connected
        .unwrap()
        .unwrap_or_else(|error| panic!("{to}: {error}"));
    let (back, _) = listener.accept().unwrap();
    for end in [&out, &back] {
        end.set_nodelay(true).unwrap();
        end.set_read_timeout(Some(LIMIT)).unwrap();
    }
    (out, back)
}

/// Node, fabric and pods reach each other.
#[track_caller]
pub fn all_talk(node: &str, pods: &[&Pod]) {
    let (here, fabric) = (here(), fabric());
    for pod in pods {
        talk(&here, &pod.netns, pod.address);
        talk(&pod.netns, &here, node);
        talk(&fabric, &pod.netns, pod.address);
        talk(&pod.netns, &fabric, "10.0.0.1");
        for other in pods {
            talk(&pod.netns, &other.netns, other.address);
        }
    }
    talk(&fabric, &here, node);
}
