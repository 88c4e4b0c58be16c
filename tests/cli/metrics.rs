//! `azure-vnet metrics`, printed and served.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::pod::Pod;
use azure_vnet_testbed::process::Running;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};
use regex::Regex;

use crate::golden::assert_golden;
use crate::scene::{connect, json_of, pods, pretty, printed, without};

const LIMIT: Duration = Duration::from_secs(20);
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9437);

/// How often each kind of packet came by depends on the neighbours' mood.
fn without_packets(text: &str) -> String {
    without(text, |line| line.starts_with("azure_vnet_packets_total{"))
}

#[test]
fn as_text_and_json() {
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let [web, db] = pods(&azure, tier);
        let _open = [
            connect(&azure, &web, 20000, (INTERNET[0], 8443)),
            connect(&azure, &db, 20001, (INTERNET[0], 8443)),
        ];
        let text = printed(vm, 0, &["metrics"]);
        assert_golden(&format!("metrics-{tier}.txt"), &without_packets(&text));
        let created = "azure_vnet_packets_total{bridge=\"azure0\",reason=\"flow_created\",verdict=\"pass\"} 2\n";
        assert_eq!(text.contains(created), tier == "ebpf", "{text}");
        let mut json = json_of(vm, 0, &["metrics"]);
        for metric in json["metrics"].as_array_mut().unwrap() {
            if [
                "azure_vnet_packets_total",
                "azure_vnet_pool_fetched_timestamp_seconds",
            ]
            .iter()
            .any(|name| metric["name"] == *name)
            {
                metric["samples"].take();
            }
        }
        assert_golden(&format!("metrics-{tier}.json"), &pretty(&json));
    }
}

/// What comes back for these bytes, until the connection is closed.
fn talk(mut stream: TcpStream, request: &[u8]) -> String {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // A server that has heard enough may close before all is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// What the dashboard and the alert rules ask for is there: names of metrics, labels, and reasons.
#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let mut served = String::new();
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let [web, _db] = pods(&azure, tier);
        let _open = connect(&azure, &web, 20000, (INTERNET[0], 8443));
        served += &printed(&azure.vms[0], 0, &["metrics"]);
    }
    let selector = Regex::new(r"(azure_vnet_\w+)(?:\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"(\w+)(=~|=)\\?"([^"\\]*)\\?""#).unwrap();
    // Prometheus adds this one itself.
    let is_added = |label: &str| label == "instance";
    for file in ["alerts.yaml", "dashboard.json"] {
        let path = format!("{}/../conf/monitoring/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let mut asked = 0;
        for found in selector.captures_iter(&text) {
            asked += 1;
            let name = &found[1];
            let samples: Vec<&str> = served
                .lines()
                .filter(|line| {
                    let rest = line.strip_prefix(name);
                    rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                })
                .collect();
            assert!(!samples.is_empty(), "{file} asks for {name}");
            let labels = found.get(2).map_or("", |labels| labels.as_str());
            for label in matcher.captures_iter(labels) {
                if is_added(&label[1]) {
                    continue;
                }
                for value in label[3].split('|') {
                    let value = if &label[2] == "=" {
                        regex::escape(value)
                    } else {
                        value.to_owned()
                    };
                    let wanted = Regex::new(&format!("{}=\"{value}\"", &label[1])).unwrap();
                    assert!(
                        samples.iter().any(|sample| wanted.is_match(sample)),
                        "{file} asks for {name} with {wanted}"
                    );
                }
            }
        }
        assert!(asked >= 9, "{file}: {asked}");
    }
}

struct Served<'a> {
    vm: &'a Vm,
    address: SocketAddrV4,
    _server: Running,
}

impl<'a> Served<'a> {
    fn start(vm: &'a Vm) -> Self {
        Self::listening(vm, "127.0.0.1:9437")
    }

    fn listening(vm: &'a Vm, listen: &str) -> Self {
        let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
        let server = plugin
            .args(["metrics", "--listen", listen])
            .start()
            .unwrap();
        Self::of(vm, server, ADDRESS)
    }

    fn of(vm: &'a Vm, server: Running, address: SocketAddrV4) -> Self {
        let this = Self {
            vm,
            address,
            _server: server,
        };
        let end = Instant::now() + LIMIT;
        while this.connect().is_err() {
            assert!(Instant::now() < end, "nobody listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = self
            .vm
            .namespace()
            .run(|| TcpStream::connect(self.address))??;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    /// What it answers to these bytes, until it closes the connection.
    fn ask(&self, request: &[u8]) -> String {
        talk(self.connect().unwrap(), request)
    }

    fn get(&self, path: &str) -> String {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
    }
}

#[test]
fn served_with_health() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let served = Served::start(vm);
    let answer = served.get("/healthz");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"),
        "{answer}"
    );

    let _pods = pods(&azure, "ebpf");
    // The answer before is good for a second.
    let end = Instant::now() + LIMIT;
    let answer = loop {
        let answer = served.get("/metrics");
        if answer.contains("azure_vnet_pods{bridge=\"azure0\"} 2\n") || Instant::now() > end {
            break answer;
        }
    };
    assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(
        answer.contains("azure_vnet_pods{bridge=\"azure0\"} 2\n"),
        "{answer}"
    );

    let ip = vm.program("ip").unwrap();
    ip.args(["link", "set", "azure0", "down"])
        .checked()
        .unwrap();
    let end = Instant::now() + LIMIT;
    let answer = loop {
        let answer = served.get("/healthz");
        if !answer.starts_with("HTTP/1.1 200") || Instant::now() > end {
            break answer;
        }
    };
    assert!(
        answer.starts_with("HTTP/1.1 503 ")
            && answer.contains("datapath: azure0: the bridge azure0 is down"),
        "{answer}"
    );
}

#[test]
fn a_client_gets_no_more_than_there_is() {
    let azure = Azure::builder().build().unwrap();
    let served = Served::start(&azure.vms[0]);
    assert!(served.get("/").starts_with("HTTP/1.1 404 "));
    assert!(
        served
            .get("/metrics/../../etc/passwd")
            .starts_with("HTTP/1.1 404 ")
    );
    let post = served.ask(
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assert!(
        post.starts_with("HTTP/1.1 405 ") && post.to_lowercase().contains("allow: get, head"),
        "{post}"
    );
    let long = [
        b"GET /metrics HTTP/1.1\r\nX: ".to_vec(),
        vec![b'x'; 100_000],
    ]
    .concat();
    let answer = served.ask(&long);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
    let answer = served.ask(b"\x00\xff not HTTP\r\n\r\n");
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
        "{answer}"
    );

    // More headers than anybody sends.
    let headers = "X: x\r\n".repeat(100);
    let answer = served.ask(format!("GET /metrics HTTP/1.1\r\n{headers}\r\n").as_bytes());
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
        "{answer}"
    );
}

/// Shown on v0.1.0: 60 connections of one pod, and nobody else was answered while they stayed.
#[test]
fn a_pod_with_a_thousand_connections_silences_nobody() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let [greedy, modest] = pods(&azure, "ebpf");
    let everywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 9437);
    let served = Served::listening(vm, &everywhere.to_string());
    let at_node = SocketAddrV4::new(vm.nic.primary, 9437);
    let from = |pod: &Pod<'_>| pod.namespace().run(|| TcpStream::connect(at_node)).unwrap();
    let mut held: Vec<TcpStream> = Vec::new();
    for count in [60, 1000] {
        while held.len() < count {
            let mut stream = from(&greedy).unwrap();
            // Half a request, so that it is not idle either.
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n");
            held.push(stream);
        }
        // The node's own question, as kubelet puts it, another pod's, and one more of the same pod's.
        for answer in [
            served.get("/healthz"),
            talk(from(&modest).unwrap(), b"GET /healthz HTTP/1.0\r\n\r\n"),
            talk(from(&greedy).unwrap(), b"GET /healthz HTTP/1.0\r\n\r\n"),
        ] {
            assert!(
                answer.starts_with("HTTP/1.") && answer.contains(" 200 OK"),
                "{count}: {answer}"
            );
        }
    }
}

/// With a port alone nobody from outside gets as far as the socket.
#[test]
fn a_port_alone_is_the_nodes() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let [pod, _] = pods(&azure, "ebpf");
    let served = Served::listening(vm, "9437");
    assert!(served.get("/healthz").starts_with("HTTP/1.1 200 "));
    let at_node = SocketAddrV4::new(vm.nic.primary, 9437);
    let refused = pod.namespace().run(|| TcpStream::connect(at_node)).unwrap();
    assert_eq!(
        refused.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionRefused
    );
}

/// What `conf/daemonset.yaml` leaves the container that serves them: two capabilities, and nothing to write to.
#[test]
fn what_the_manifest_leaves_is_enough() {
    const MANIFEST: &str = include_str!("../../conf/daemonset.yaml");
    assert!(MANIFEST.contains("capabilities: { drop: [ALL], add: [SYS_ADMIN, NET_ADMIN] }"));
    for wide in [
        "privileged:",
        "0.0.0.0",
        "type: DirectoryOrCreate } }\n        - { name: run",
    ] {
        assert!(!MANIFEST.contains(wide), "{wide}");
    }
    for tier in ["ebpf", "netfilter"] {
        let azure = Azure::builder().build().unwrap();
        let vm = &azure.vms[0];
        let [web, _] = pods(&azure, tier);
        let _open = connect(&azure, &web, 20000, (INTERNET[0], 8443));
        let all = without_packets(&printed(vm, 0, &["metrics"]));
        for folder in ["/run/azure-vnet", "/sys/fs/bpf"] {
            for line in [
                format!("--rbind {folder} {folder}"),
                format!("-o remount,bind,ro {folder}"),
            ] {
                let mount = vm.program("mount").unwrap();
                mount.args(line.split(' ')).checked().unwrap();
            }
        }
        let plugin = format!("{PLUGIN_DIR}/azure-vnet");
        let restricted = |arguments: &[&str]| {
            let words = [
                "--no-new-privs",
                "--inh-caps=-all",
                "--ambient-caps=-all",
                "--bounding-set=-all,+sys_admin,+net_admin",
            ];
            let setpriv = vm.program("setpriv").unwrap().args(words);
            setpriv.arg(&plugin).args(arguments)
        };
        let output = restricted(&["metrics"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(without_packets(&output.stdout), all, "{tier}");
        let at_node = format!("{}:9437", vm.nic.primary);
        let running = restricted(&["metrics", "--listen", &at_node])
            .start()
            .unwrap();
        let served = Served::of(vm, running, at_node.parse().unwrap());
        let answer = served.get("/healthz");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{tier}: {answer}");
        assert!(
            served
                .get("/metrics")
                .contains("azure_vnet_pods{bridge=\"azure0\"} 2\n"),
            "{tier}"
        );
    }
}

/// The container of `conf/daemonset.yaml` has neither the node's folders nor its programs: what they alone could say is not asked, and
/// no gauge makes a fuss about it.
#[test]
fn a_server_without_the_nodes_folders_and_programs_says_nothing_of_them() {
    let mut azure = Azure::builder().build().unwrap();
    let gone = [
        "nft",
        "iptables-nft-save",
        "iptables-legacy-save",
        "iptables-save",
        "iptables-restore",
        "ebtables-save",
    ];
    azure.vms[0]
        .replace_programs(&gone.map(|name| (name, None)))
        .unwrap();
    let vm = &azure.vms[0];
    let _pods = pods(&azure, "ebpf");
    let mount = vm.program("mount").unwrap();
    // Where the configurations would be.
    mount
        .args(["-t", "tmpfs", "none", "/etc/cni"])
        .checked()
        .unwrap();
    let served = Served::start(vm);
    assert!(served.get("/healthz").starts_with("HTTP/1.1 200 OK"));
    let answer = served.get("/metrics");
    let gauges: Vec<&str> = answer
        .lines()
        .filter(|line| line.starts_with("azure_vnet_check{"))
        .collect();
    assert!(
        gauges.len() > 15 && gauges.iter().all(|it| it.ends_with("} 0")),
        "{gauges:#?}"
    );
    for check in [
        "configuration",
        "plugins",
        "netfilter",
        "iptables",
        "original",
    ] {
        assert!(
            !answer.contains(&format!("check=\"{check}\"")),
            "{check}: {answer}"
        );
    }
}
