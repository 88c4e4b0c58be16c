//! A node with two pods and a few connections, and the command line on it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use crate::golden::assert_fits;
use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::process::Output;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

const LIMIT: Duration = Duration::from_secs(5);

/// The shipped list with a tier asked for.
pub fn list(datapath: &str) -> Conflist {
    let masquerade = json!({ "datapath": datapath });
    Conflist::shipped().with_setting("azure-vnet", "masquerade", &masquerade)
}

/// A node with the pods `web` and `db`.
pub fn pods<'a>(azure: &'a Azure, datapath: &str) -> [Pod<'a>; 2] {
    ["web", "db"].map(|name| {
        azure.vms[0]
            .add_pod(&list(datapath), &PodSpec::named(name))
            .unwrap()
    })
}

/// Runs the command line on a VM.
pub fn run(vm: &Vm, arguments: &[&str]) -> Output {
    let program = vm.program(&format!("{PLUGIN_DIR}/azure-vnet")).unwrap();
    program.args(arguments).output().unwrap()
}

/// What it prints; it must end with `code`.
#[track_caller]
pub fn printed(vm: &Vm, code: i32, arguments: &[&str]) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = run(vm, arguments);
    assert_eq!(status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
    stdout
}

/// What it prints with `--json`.
#[track_caller]
pub fn json_of(vm: &Vm, code: i32, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&printed(vm, code, &arguments)).unwrap()
}

/// The same again, as text: keys in the order of the alphabet.
pub fn pretty(json: &Value) -> String {
    format!("{json:#}\n")
}

/// What a row of commands prints, each under its own line.
#[track_caller]
pub fn transcript(vm: &Vm, commands: &[&[&str]]) -> String {
    let shown = commands.iter().map(|arguments| {
        let text = printed(vm, 0, arguments);
        if !arguments.contains(&"--json") && arguments[0] != "metrics" {
            assert_fits(&text);
        }
        format!("$ azure-vnet {}\n{text}", arguments.join(" "))
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// The text without the lines that are not wanted.
pub fn without(text: &str, unwanted: impl Fn(&str) -> bool) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !unwanted(line)).collect();
    lines.join("\n") + "\n"
}

/// A TCP connection from a port of a pod to a port of the internet, which has carried a byte each way.
pub struct Connection {
    _pod: TcpStream,
    _internet: TcpStream,
}

impl Connection {
    pub fn open(azure: &Azure, pod: &Pod<'_>, from: u16, to: (Ipv4Addr, u16)) -> Self {
        let (address, port) = to;
        assert!(INTERNET.contains(&address));
        let server = SocketAddrV4::new(address, port);
        let listener = azure.internet.namespace().run(|| TcpListener::bind(server));
        let listener = listener.unwrap().unwrap();
        let client = pod.namespace().run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddrV4::new(pod.address, from).into())?;
            socket.connect_timeout(&server.into(), LIMIT)?;
            Ok::<TcpStream, std::io::Error>(socket.into())
        });
        let mut pod = client.unwrap().unwrap();
        let (mut internet, _) = listener.accept().unwrap();
        for stream in [&pod, &internet] {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
        }
        let mut byte = [0];
        pod.write_all(b"?").unwrap();
        internet.read_exact(&mut byte).unwrap();
        internet.write_all(b"!").unwrap();
        pod.read_exact(&mut byte).unwrap();
        Self {
            _pod: pod,
            _internet: internet,
        }
    }
}
