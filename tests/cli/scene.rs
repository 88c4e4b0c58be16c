//! A node with two pods and a few connections, and the command line on it.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::golden::assert_fits;
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::connection::{Connection, Ends};
use azure_vnet_testbed::pod::{Pod, PodSpec};
use azure_vnet_testbed::process::Output;
use azure_vnet_testbed::{Azure, PLUGIN_DIR, Vm};
use serde_json::{Value, json};

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
pub fn connect(azure: &Azure, pod: &Pod<'_>, from: u16, to: (Ipv4Addr, u16)) -> Connection {
    let ends = Ends {
        from: Some(SocketAddrV4::new(pod.address, from)),
        to: Some(SocketAddrV4::new(to.0, to.1)),
        service: None,
    };
    let connection = Connection::open_between(pod.namespace(), &azure.internet, ends);
    let mut connection = connection.unwrap();
    connection.is_alive().unwrap();
    connection
}
