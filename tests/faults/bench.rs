//! Where a case is run: a VM, a pod on it that nothing may disturb, and what the VM looks like when nothing of the case is left.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use azure_vnet_testbed::address_plan::INTERNET;
use azure_vnet_testbed::connection::Connection;
use azure_vnet_testbed::exchange::ask;
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::namespace::Namespace;
use serde_json::{Value, json};
use socket2::Type;

use crate::fixture::{Container, Node, sh};
use crate::table::Verdict;
use crate::traces::Traces;

/// A settled VM with a pod that stays.
pub struct Bench<'a> {
    pub node: &'a Node,
    pub standing: Container<'a>,
    result: Value,
    connection: Connection,
    before: BTreeSet<String>,
}

impl<'a> Bench<'a> {
    pub fn new(node: &'a Node) -> Self {
        let standing = node.container();
        let result = standing.add();
        // One pod has come and gone, so that whatever the first one leaves is there.
        let first = node.container();
        first.add();
        first.del().ok();
        drop(first);
        let connection = Connection::open(standing.namespace(), &node.azure().internet).unwrap();
        let before = everything(node);
        Self {
            node,
            standing,
            result,
            connection,
            before,
        }
    }

    /// Fails if anything came or went, or if the standing pod is not as it was.
    pub fn nothing_left(&mut self, when: &str) -> Result<(), String> {
        let now = everything(self.node);
        let left: Vec<_> = now.difference(&self.before).collect();
        // Where the disk was full IPAM went on with one copy of its record, and said so.
        let spare = |trace: &&String| *trace != "file /run/azure-vnet/ipam.json.backup";
        let lost: Vec<_> = self.before.difference(&now).filter(spare).collect();
        if !left.is_empty() || !lost.is_empty() {
            return Err(format!("{when}: left {left:?}, lost {lost:?}"));
        }
        self.others_work(when)
    }

    /// The pod that stands beside keeps its connection, and is as CHECK wants it.
    pub fn others_work(&mut self, when: &str) -> Result<(), String> {
        self.connection
            .is_alive()
            .map_err(|error| format!("{when}: the standing pod's connection: {error}"))
    }

    /// CHECK of the standing pod.
    pub fn check(&self) -> Result<(), String> {
        self.standing
            .check(&self.result)
            .silent()
            .map_err(|answer| format!("the standing pod: {answer}"))
    }

    /// GC for which only the standing pod is in use. Runtimes collect once in a while, long after a call was killed.
    pub fn gc(&self) -> Result<(), String> {
        self.node.vm().namespace().run(age_drafts).unwrap();
        let valid = json!([{ "containerID": self.standing.id, "ifname": self.standing.ifname }]);
        let extra = json!({ "cni.dev/valid-attachments": valid });
        self.node
            .call("GC", &extra)
            .silent()
            .map_err(|answer| format!("GC: {answer}"))
    }
}

/// The pod reaches the internet, which sees it as the node.
pub fn works(container: &Container<'_>) -> Verdict {
    reaches(container.node(), container.namespace())?;
    Ok("works".into())
}

/// What is in `namespace` reaches the internet with the node's address.
pub fn reaches(node: &Node, namespace: &Namespace) -> Result<(), String> {
    let to = SocketAddrV4::new(INTERNET[0], REPORT_PORT);
    match ask(Type::STREAM, namespace, None, to) {
        Ok(seen) if seen == node.vm().nic.primary => Ok(()),
        Ok(seen) => Err(format!("the internet sees {seen}")),
        Err(error) => Err(format!("cannot reach the internet: {error}")),
    }
}

/// Everything of a VM that a call of the plugin may change, one line each.
pub fn everything(node: &Node) -> BTreeSet<String> {
    let namespace = node.vm().namespace();
    let mut lines = Traces::of(node.vm(), node.tier).0;
    lines.extend(
        namespace
            .run(|| files(&["/run/azure-vnet", "/sys/fs/bpf/azure-vnet"]))
            .unwrap(),
    );
    for line in ["ip -4 -o address", "ip -4 route show table all"] {
        lines.extend(
            sh(namespace, line)
                .lines()
                .map(|text| format!("{line}: {}", text.trim())),
        );
    }
    lines
}

fn files(directories: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = directories.iter().map(PathBuf::from).collect();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else {
                found.push(format!("file {}", entry.path().display()));
            }
        }
    }
    found
}

/// Makes the files that nobody has completed two minutes older.
fn age_drafts() {
    let past = SystemTime::now() - Duration::from_mins(2);
    for entry in std::fs::read_dir("/run/azure-vnet/attachments")
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.path().extension().is_some_and(|kind| kind == "new") {
            let file = File::options().write(true).open(entry.path()).unwrap();
            file.set_modified(past).unwrap();
        }
    }
}
