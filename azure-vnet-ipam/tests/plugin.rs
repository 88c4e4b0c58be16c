//! The real binary against a real HTTP server on 127.0.0.1, each test with a state directory of its own.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and runs the program it is about"
)]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A wireserver whose answer can be changed. Its thread ends with the test process.
struct Wireserver {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    requests: Arc<AtomicUsize>,
}

#[derive(Clone)]
enum Answer {
    Xml(String),
    Status(u16),
    /// More bytes than anybody should read.
    Flood,
    /// Accepts and stays silent.
    Silence,
}

impl Wireserver {
    /// A VM with one NIC: 10.20.0.4 is its own, `pods` more are for pods from 10.20.0.5 on.
    fn with(pods: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Wireserver {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(Answer::Xml(nic(pods)))),
            requests: Arc::default(),
        };
        let (answer, requests) = (server.answer.clone(), server.requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                requests.fetch_add(1, Ordering::SeqCst);
                let answer = answer.lock().unwrap().clone();
                thread::spawn(move || serve(stream, &answer));
            }
        });
        server
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, answer: &Answer) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    let expected = "GET /machine/plugins?comp=nmagent&type=getinterfaceinfov1 HTTP/1.1";
    let mut stream = stream;
    // The client may have gone by now: nothing to report.
    let _ = match answer {
        _ if request != expected => write!(stream, "HTTP/1.1 400 Bad Request\r\n\r\n{request}"),
        Answer::Xml(xml) => write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{xml}",
            xml.len()
        ),
        Answer::Status(status) => write!(stream, "HTTP/1.1 {status} No\r\n\r\n"),
        Answer::Flood => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n<Interfaces>");
            (0..800).try_for_each(|_| stream.write_all(&[b' '; 16384]))
        }
        Answer::Silence => {
            // Until the client hangs up.
            lines.by_ref().for_each(drop);
            Ok(())
        }
    };
}

fn nic(pods: usize) -> String {
    let pods = (5..5 + pods)
        .map(|host| format!(r#"<IPAddress Address="10.20.0.{host}" IsPrimary="false"/>"#));
    format!(
        r#"<Interfaces><Interface MacAddress="000D3A112233" IsPrimary="true"><IPSubnet Prefix="10.20.0.0/22">
           <IPAddress Address="10.20.0.4" IsPrimary="true"/>{}</IPSubnet></Interface></Interfaces>"#,
        pods.collect::<String>()
    )
}

/// A node: a wireserver and a state directory.
struct Node {
    server: Wireserver,
    dir: TempDir,
    /// Further members of `ipam`.
    ipam: Value,
}

impl Node {
    fn with(pods: usize) -> Self {
        Node {
            server: Wireserver::with(pods),
            dir: TempDir::new().unwrap(),
            ipam: json!({}),
        }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join("state").join(name)
    }

    fn conf(&self) -> String {
        let mut ipam = self.ipam.clone();
        ipam["type"] = json!("azure-vnet-ipam");
        ipam["stateDir"] = json!(self.dir.path().join("state"));
        if ipam.get("wireserver").is_none() {
            ipam["wireserver"] = json!(format!("http://{}", self.server.address));
        }
        json!({"cniVersion": "0.3.0", "name": "azure", "type": "azure-vnet", "bridge": "azure0", "ipam": ipam})
            .to_string()
    }

    /// Starts one call, with its configuration already written.
    fn start(&self, command: &str, container: &str) -> Child {
        let mut child = Command::new(env!("CARGO_BIN_EXE_azure-vnet-ipam"))
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env(
                "CNI_NETNS",
                if command == "DEL" { "" } else { "/run/netns/x" },
            )
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", "")
            .env("CNI_PATH", "/nonexistent")
            // Must not be followed.
            .env("http_proxy", "http://127.0.0.1:1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A call that needs no configuration may be over before it is written.
        let _ = stdin.write_all(self.conf().as_bytes());
        child
    }

    fn call(&self, command: &str, container: &str) -> Output {
        self.start(command, container).wait_with_output().unwrap()
    }

    /// A successful ADD.
    fn add(&self, container: &str) -> String {
        address(&self.call("ADD", container))
    }

    /// A failing ADD: its error object.
    fn refused(&self, container: &str) -> Value {
        let output = self.call("ADD", container);
        assert!(!output.status.success(), "{output:?}");
        let error: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(error["cniVersion"], "0.3.0");
        error
    }

    fn del(&self, container: &str) {
        silent_success(&self.call("DEL", container));
    }
}

fn address(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

fn silent_success(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn add_gives_the_whole_result() {
    let node = Node::with(3);
    let output = node.call("ADD", "c1");
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        result,
        json!({"cniVersion": "0.3.0",
               "ips": [{"version": "4", "address": "10.20.0.5/22", "gateway": "10.20.0.1"}],
               "routes": [{"dst": "0.0.0.0/0", "gw": "10.20.0.1"}],
               "dns": {"nameservers": ["168.63.129.16"]}})
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn add_is_idempotent_and_del_makes_room_for_the_next() {
    let node = Node::with(2);
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    assert_eq!(node.add("c2"), "10.20.0.6/22");
    node.del("c1");
    node.del("c1");
    node.del("never-added");
    assert_eq!(node.add("c3"), "10.20.0.5/22");
    assert_eq!(node.server.requests(), 1, "the snapshot is fresh");
}

#[test]
fn del_without_any_state_leaves_none() {
    let node = Node::with(1);
    node.del("c1");
    assert!(!node.state("").exists());
    assert_eq!(node.server.requests(), 0);
}

#[test]
fn del_works_with_a_wrong_ipam_section() {
    let mut node = Node::with(1);
    node.add("c1");
    node.ipam = json!({"environment": "moon", "subnet": [], "queryInterval": {}});
    assert_eq!(node.refused("c2")["code"], 7);
    node.del("c1");
    node.ipam = json!({});
    assert_eq!(node.add("c2"), "10.20.0.5/22");
}

#[test]
fn thirty_at_once_get_thirty_addresses() {
    let node = Node::with(30);
    let start = |command: &str| -> Vec<Child> {
        (0..30)
            .map(|container| node.start(command, &format!("c{container}")))
            .collect()
    };
    let adds = start("ADD").into_iter();
    let addresses: BTreeSet<String> = adds
        .map(|child| address(&child.wait_with_output().unwrap()))
        .collect();
    assert_eq!(addresses.len(), 30);
    for child in start("DEL") {
        silent_success(&child.wait_with_output().unwrap());
    }
    let adds = start("ADD").into_iter();
    let again: BTreeSet<String> = adds
        .map(|child| address(&child.wait_with_output().unwrap()))
        .collect();
    assert_eq!(again, addresses);
}

#[test]
fn exhaustion_is_explained_and_ends_with_more_addresses() {
    let node = Node::with(2);
    node.add("c1");
    node.add("c2");
    let error = node.refused("c3");
    assert_eq!(error["code"], 110);
    let message = error["msg"].as_str().unwrap();
    assert!(message.contains("all 2 pod addresses") && message.contains("ipconfigs"));
    // An operator adds one; nobody waits for the interval.
    node.server.set(Answer::Xml(nic(3)));
    assert_eq!(node.add("c3"), "10.20.0.7/22");
}

#[test]
fn an_unreachable_source_is_replaced_by_the_snapshot() {
    let mut node = Node::with(3);
    node.add("c1");
    // Nobody listens on port 1; the interval is over at once.
    node.ipam = json!({"wireserver": "http://127.0.0.1:1", "queryInterval": "0"});
    let output = node.call("ADD", "c2");
    assert_eq!(address(&output), "10.20.0.6/22");
    let warning = stderr(&output);
    assert!(warning.starts_with("azure-vnet-ipam: no answer from the wireserver"));
    assert_eq!(warning.lines().count(), 1, "{warning}");
    node.del("c1");
}

/// The call waits for the source once, without the lock, and those after it not at all.
#[test]
fn a_silent_source_costs_one_call_its_patience() {
    let mut node = Node::with(3);
    node.ipam = json!({"queryInterval": 0});
    node.add("c1");
    node.server.set(Answer::Silence);
    let waiting = node.start("ADD", "c2");
    // While it waits, others work.
    node.del("c1");
    assert_eq!(
        address(&waiting.wait_with_output().unwrap()),
        "10.20.0.6/22"
    );
    node.ipam = json!({"queryInterval": 3600});
    let asked = node.server.requests();
    assert_eq!(node.add("c3"), "10.20.0.7/22");
    assert_eq!(node.server.requests(), asked);
}

#[test]
fn without_snapshot_a_bad_source_is_a_passing_error() {
    let node = Node::with(0);
    for (answer, text) in [
        (Answer::Status(503), "status 503"),
        (Answer::Status(301), "status 301"),
        (Answer::Xml("<html/>".into()), "<html>"),
        (Answer::Xml("not XML".into()), "expected XML"),
        (Answer::Flood, "larger than"),
    ] {
        node.server.set(answer);
        let error = node.refused("c1");
        assert_eq!(error["code"], 11, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(text), "{error}");
    }
    node.server.set(Answer::Xml(nic(0)));
    let error = node.refused("c1");
    assert_eq!(error["code"], 110);
    assert!(error["msg"].as_str().unwrap().contains("no NIC"));
}

#[test]
fn particular_addresses_and_subnets() {
    let mut node = Node::with(5);
    node.ipam = json!({"ipAddress": "10.20.0.8", "subnet": "10.20.0.0/22"});
    assert_eq!(node.add("c1"), "10.20.0.8/22");
    assert_eq!(node.refused("c2")["code"], 111);
    // The VM's own address, the gateway, and one of nobody.
    for address in ["10.20.0.4", "10.20.0.1", "10.20.0.200"] {
        node.ipam = json!({"ipAddress": address});
        let error = node.refused("c2");
        assert_eq!(error["code"], 111);
        assert!(error["msg"].as_str().unwrap().contains(address));
    }
    node.ipam = json!({"subnet": "10.99.0.0/16"});
    assert_eq!(node.refused("c2")["code"], 111);
}

#[test]
fn a_damaged_record_is_healed_with_a_warning() {
    let node = Node::with(3);
    node.add("c1");
    fs::write(node.state("ipam.json"), [0; 64]).unwrap();
    let output = node.call("ADD", "c2");
    assert_eq!(address(&output), "10.20.0.6/22");
    let warning = stderr(&output);
    assert!(warning.contains("ipam.json") && warning.contains("backup"));
    assert_eq!(warning.lines().count(), 1, "{warning}");
    assert_eq!(stderr(&node.call("ADD", "c3")), "");
}

#[test]
fn a_lost_record_refuses_add_but_lets_pods_go() {
    let node = Node::with(3);
    node.add("c1");
    for name in ["ipam.json", "ipam.json.backup"] {
        fs::write(node.state(name), "{").unwrap();
    }
    let error = node.refused("c2");
    assert_eq!(error["code"], 112);
    assert!(error["msg"].as_str().unwrap().contains("remove both files"));
    let output = node.call("DEL", "c1");
    silent_success(&output);
    assert!(stderr(&output).contains("remove both files"));
}

#[test]
fn version_and_about_need_no_lock() {
    let node = Node::with(1);
    node.add("c1");
    let lock = File::open(node.state("ipam.lock")).unwrap();
    lock.lock().unwrap();
    let output = node.call("VERSION", "");
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        reply,
        json!({"cniVersion": "0.3.0", "supportedVersions": ["0.3.0", "0.3.1"]})
    );
    let output = node.call("", "");
    silent_success(&output);
    assert!(stderr(&output).contains("CNI protocol versions supported: 0.3.0, 0.3.1"));
}
