//! kube-proxy's rules for Services, as version 1.30 writes them in mode `iptables`, and its settings of the node.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::Error;
use crate::address_plan::SUBNET;
use crate::vm::Vm;

/// A Service with one endpoint, by TCP and by UDP.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name, in capitals: chains are called after it.
    pub name: &'static str,
    /// Its address in the cluster, and the port there and at a load balancer.
    pub cluster_ip: SocketAddrV4,
    /// Its port on every node.
    pub node_port: Option<u16>,
    /// The addresses of a load balancer that leaves them in the packet.
    pub load_balancer: Vec<Ipv4Addr>,
    /// `externalTrafficPolicy: Local`: what comes from outside keeps its source. The endpoint must be on the node.
    pub local: bool,
    /// Who answers.
    pub endpoint: SocketAddrV4,
}

impl Service {
    /// A Service with an address in the cluster and nothing else.
    pub fn new(name: &'static str, cluster_ip: SocketAddrV4, endpoint: SocketAddrV4) -> Self {
        Self {
            name,
            cluster_ip,
            node_port: None,
            load_balancer: Vec::new(),
            local: false,
            endpoint,
        }
    }

    /// The Service with a port on every node.
    #[must_use]
    pub fn node_port(mut self, port: u16) -> Self {
        self.node_port = Some(port);
        self
    }

    /// The Service behind a load balancer.
    #[must_use]
    pub fn load_balancer(mut self, addresses: &[Ipv4Addr]) -> Self {
        self.load_balancer = addresses.to_vec();
        self
    }

    /// The Service with `externalTrafficPolicy: Local`.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.local = true;
        self
    }
}

/// Makes the VM a node that serves these, and forwards as Kubernetes asks of every node.
pub fn install(vm: &Vm, services: &[Service]) -> Result<(), Error> {
    vm.set_sysctl("ipv4/ip_forward", "1")?;
    // For NodePorts at 127.0.0.1.
    vm.set_sysctl("ipv4/conf/all/route_localnet", "1")?;
    let restore = vm.program("iptables-restore")?;
    restore.arg("--noflush").stdin(rules(services)).checked()?;
    Ok(())
}

fn rules(services: &[Service]) -> String {
    let mut nat = Nat::default();
    for service in services {
        for protocol in ["tcp", "udp"] {
            nat.add(service, protocol);
        }
    }
    let chains = nat.chains.iter().fold(String::new(), |text, chain| {
        text + &format!(":{chain} - [0:0]\n")
    });
    let (node_ports, lines) = (nat.node_ports, nat.lines);
    format!(
        "{FILTER}*nat\n{NAT_CHAINS}{chains}{NAT_RULES}{lines}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n{node_ports}COMMIT\n"
    )
}

/// What Services add to the table `nat`.
#[derive(Default)]
struct Nat {
    chains: Vec<String>,
    lines: String,
    /// In a chain of their own, asked after all addresses.
    node_ports: String,
}

impl Nat {
    fn add(&mut self, service: &Service, protocol: &str) {
        let name = format!("{}-{}", service.name, protocol.to_uppercase());
        let chain = |kind: &str| format!("KUBE-{kind}-{name}");
        let (svc, sep) = (chain("SVC"), chain("SEP"));
        let (address, port) = (service.cluster_ip.ip(), service.cluster_ip.port());
        let to = |port| format!("-p {protocol} -m {protocol} --dport {port}");
        let (endpoint, by) = (service.endpoint, format!("-p {protocol} -m {protocol}"));
        self.chains.extend([svc.clone(), sep.clone()]);
        self.line(&format!(
            "-A KUBE-SERVICES -d {address}/32 {} -j {svc}",
            to(port)
        ));
        self.line(&format!(
            "-A {svc} ! -s {SUBNET} -d {address}/32 {} -j KUBE-MARK-MASQ",
            to(port)
        ));
        self.line(&format!("-A {svc} -j {sep}"));
        self.line(&format!(
            "-A {sep} -s {}/32 -j KUBE-MARK-MASQ",
            endpoint.ip()
        ));
        self.line(&format!(
            "-A {sep} {by} -j DNAT --to-destination {endpoint}"
        ));
        if service.node_port.is_none() && service.load_balancer.is_empty() {
            return;
        }
        let ext = self.external(service, chain);
        for address in &service.load_balancer {
            self.line(&format!(
                "-A KUBE-SERVICES -d {address}/32 {} -j {ext}",
                to(port)
            ));
        }
        if let Some(port) = service.node_port {
            let _ = writeln!(self.node_ports, "-A KUBE-NODEPORTS {} -j {ext}", to(port));
        }
    }

    /// The chain for what comes by a node's port or a load balancer.
    fn external(&mut self, service: &Service, chain: impl Fn(&str) -> String) -> String {
        let (ext, svc) = (chain("EXT"), chain("SVC"));
        self.chains.push(ext.clone());
        if service.local {
            let svl = chain("SVL");
            self.line(&format!("-A {ext} -s {SUBNET} -j {svc}"));
            let own = format!("-A {ext} -m addrtype --src-type LOCAL");
            self.line(&format!("{own} -j KUBE-MARK-MASQ"));
            self.line(&format!("{own} -j {svc}"));
            self.line(&format!("-A {ext} -j {svl}"));
            self.line(&format!("-A {svl} -j {}", chain("SEP")));
            self.chains.push(svl);
        } else {
            self.line(&format!("-A {ext} -j KUBE-MARK-MASQ"));
            self.line(&format!("-A {ext} -j {svc}"));
        }
        ext
    }

    fn line(&mut self, line: &str) {
        self.lines.push_str(line);
        self.lines.push('\n');
    }
}

const FILTER: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

const NAT_CHAINS: &str = ":PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
";

const NAT_RULES: &str = "-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
";
