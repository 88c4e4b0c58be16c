//! `azure-vnet metrics`, printed and served.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::process::Running;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};

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

struct Served<'a> {
    vm: &'a Vm,
    _server: Running,
}

impl<'a> Served<'a> {
    fn start(vm: &'a Vm) -> Self {
        let plugin = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
        let server = plugin
            .args(["metrics", "--listen", "127.0.0.1:9437"])
            .start()
            .unwrap();
        let this = Self {
            vm,
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
        let stream = self.vm.namespace().run(|| TcpStream::connect(ADDRESS))??;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    /// What it answers to these bytes, until it closes the connection.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect().unwrap();
        // A server that has heard enough may close before all is written.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
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
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("azure0 is down"),
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

    // More idle connections than it serves at a time: they are closed, and others get their turn.
    let idle: Vec<TcpStream> = (0..20).map(|_| served.connect().unwrap()).collect();
    assert!(served.get("/healthz").starts_with("HTTP/1.1 200 "));
    drop(idle);
}
