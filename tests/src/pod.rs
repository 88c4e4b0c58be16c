//! A pod: a network namespace on a VM, connected by CNI plugins in the order of calls that containerd makes.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::thread;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use serde_json::{Map, Value, json};

use crate::conflist::Conflist;
use crate::libcni::{self, Attachment};
use crate::namespace::Namespace;
use crate::vm::Vm;
use crate::{Error, NETNS_DIR};

/// What a pod asks for.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// The pod's name.
    pub name: String,
    /// The name of its interface.
    pub ifname: String,
    /// Ports of the node that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
    /// The MAC of its interface (capability `mac`).
    pub mac: Option<String>,
    /// `CNI_ARGS` beside those of every pod.
    pub args: Vec<(String, String)>,
    /// Write the keys of `runtimeConfig` with capitals, as containerd does, not as the specification has them.
    pub go_keys: bool,
    /// Run the reference `loopback` plugin beside the list's first plugin, as containerd does.
    pub loopback: bool,
}

/// A port of the node that leads to a port of the pod.
#[derive(Debug, Clone, Copy)]
pub struct PortMapping {
    /// On the node.
    pub host: u16,
    /// In the pod.
    pub container: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
}

/// A pod that was added. Dropping it calls no plugin, as when a runtime dies; [`Pod::delete`] does.
#[derive(Debug)]
pub struct Pod<'vm> {
    /// The VM it runs on.
    pub vm: &'vm Vm,
    /// The address it was given.
    pub address: Ipv4Addr,
    /// What the list answered.
    pub result: Value,
    /// What the plugins were called with.
    pub attachment: Attachment,
    list: Conflist,
    sandbox: Namespace,
    loopback: bool,
}

impl PodSpec {
    /// A pod with `eth0` and no ports, called as containerd calls.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ifname: "eth0".into(),
            port_mappings: Vec::new(),
            mac: None,
            args: Vec::new(),
            go_keys: true,
            loopback: true,
        }
    }

    /// Adds a TCP port of the node that leads to a port of the pod.
    #[must_use]
    pub fn host_port(mut self, host: u16, container: u16) -> Self {
        self.port_mappings.push(PortMapping {
            host,
            container,
            protocol: "tcp",
        });
        self
    }

    fn attachment(&self) -> Attachment {
        let container_id = [(); 4].map(|()| format!("{:016x}", random())).concat();
        let netns = format!("{NETNS_DIR}/cni-{:016x}", random());
        Attachment {
            args: self.args(&container_id),
            capability_args: self.capability_args(),
            container_id,
            netns,
            ifname: self.ifname.clone(),
        }
    }

    /// containerd iterates over a Go map, so the order differs from call to call.
    fn args(&self, container_id: &str) -> Vec<(String, String)> {
        let mut args = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", "default"),
            ("K8S_POD_NAME", self.name.as_str()),
            ("K8S_POD_INFRA_CONTAINER_ID", container_id),
            ("K8S_POD_UID", &format!("{:016x}", random())),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        args.rotate_left(usize::try_from(random() % 5).unwrap_or_default());
        [&args[..], &self.args].concat()
    }

    fn capability_args(&self) -> Map<String, Value> {
        let mut capabilities = Map::new();
        if let Some(mac) = &self.mac {
            capabilities.insert("mac".to_owned(), json!(mac));
        }
        if self.port_mappings.is_empty() {
            return capabilities;
        }
        let mapping = |PortMapping {
                           host,
                           container,
                           protocol,
                       }: &PortMapping| {
            if self.go_keys {
                json!({ "HostPort": host, "ContainerPort": container, "Protocol": protocol, "HostIP": "" })
            } else {
                json!({ "hostPort": host, "containerPort": container, "protocol": protocol })
            }
        };
        let mappings = self.port_mappings.iter().map(mapping).collect();
        capabilities.insert("portMappings".to_owned(), mappings);
        capabilities
    }
}

impl Vm {
    /// Makes the sandbox and runs ADD of the list in it. A failed ADD is followed by DEL of the whole list, as runtimes do.
    pub fn add_pod(&self, list: &Conflist, spec: &PodSpec) -> Result<Pod<'_>, Error> {
        let attachment = spec.attachment();
        let sandbox = self.new_sandbox(&attachment.netns)?;
        match add(self, list, &attachment, spec.loopback) {
            Ok(result) => {
                let address = address_of(&result)?;
                Ok(Pod {
                    vm: self,
                    address,
                    result,
                    attachment,
                    list: list.clone(),
                    sandbox,
                    loopback: spec.loopback,
                })
            }
            Err(add) => {
                let clean_up = del(self, list, &attachment, spec.loopback);
                self.remove_sandbox(&attachment.netns)?;
                Err(match clean_up {
                    Ok(()) => add,
                    Err(del) => libcni::Error::CleanUp {
                        add: Box::new(add),
                        del: Box::new(del),
                    },
                }
                .into())
            }
        }
    }

    /// A network namespace with a path on the VM, as runtimes make it before they call a plugin.
    pub fn new_sandbox(&self, path: &str) -> Result<Namespace, Error> {
        let publish = |net: BorrowedFd<'_>| {
            File::create(path)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let net = open_tree(net, "", flags)?;
            move_mount(net, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            Ok(())
        };
        self.namespace()
            .sandbox(publish)
            .map_err(|source| Error::Setup {
                what: format!("make {path} on {}", self.name),
                source,
            })
    }

    /// Takes the path of a sandbox away; the namespace goes with its last user.
    pub fn remove_sandbox(&self, path: &str) -> Result<(), Error> {
        let remove = || {
            unmount(path, UnmountFlags::DETACH)?;
            fs::remove_file(path)
        };
        let failed = |source| Error::Setup {
            what: format!("remove {path} on {}", self.name),
            source,
        };
        self.namespace()
            .run(remove)
            .and_then(|done| done)
            .map_err(failed)
    }
}

impl Pod<'_> {
    /// The pod's network namespace, with the VM's files.
    pub fn namespace(&self) -> &Namespace {
        &self.sandbox
    }

    /// CHECK of the list, from 0.4.0 on.
    pub fn check(&self) -> Result<(), Error> {
        Ok(libcni::check(self.vm, &self.list, &self.attachment)?)
    }

    /// Ends the pod as containerd does: DEL with the namespace still there, then, when it is gone, DEL once more with an empty
    /// `CNI_NETNS` and nothing remembered.
    pub fn delete(self) -> Result<(), Error> {
        let Self {
            vm,
            mut attachment,
            list,
            sandbox,
            loopback,
            ..
        } = self;
        del(vm, &list, &attachment, loopback)?;
        drop(sandbox);
        vm.remove_sandbox(&attachment.netns)?;
        attachment.netns = String::new();
        Ok(del(vm, &list, &attachment, loopback)?)
    }
}

/// The loopback network that containerd attaches to every sandbox.
const LOOPBACK: &str =
    r#"{"cniVersion":"0.3.1","name":"cni-loopback","plugins":[{"type":"loopback"}]}"#;

/// containerd attaches both networks at the same time, so the first plugin meets another one at work in the same namespace.
fn add(
    vm: &Vm,
    list: &Conflist,
    attachment: &Attachment,
    loopback: bool,
) -> Result<Value, libcni::Error> {
    if !loopback {
        return libcni::add(vm, list, attachment);
    }
    let (lo_list, lo) = lo_of(attachment)?;
    let (first, second) = thread::scope(|scope| {
        let lo = scope.spawn(|| libcni::add(vm, &lo_list, &lo));
        let result = libcni::add(vm, list, attachment);
        (
            lo.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            result,
        )
    });
    first.and(second)
}

fn del(
    vm: &Vm,
    list: &Conflist,
    attachment: &Attachment,
    loopback: bool,
) -> Result<(), libcni::Error> {
    if loopback {
        let (lo_list, lo) = lo_of(attachment)?;
        libcni::del(vm, &lo_list, &lo)?;
    }
    libcni::del(vm, list, attachment)
}

fn lo_of(attachment: &Attachment) -> Result<(Conflist, Attachment), libcni::Error> {
    let lo = Attachment {
        ifname: "lo".into(),
        capability_args: Map::new(),
        ..attachment.clone()
    };
    Ok((Conflist::parse(LOOPBACK)?, lo))
}

/// The first IPv4 address of a result, in the form of 0.3.0 and later or in the form before it.
fn address_of(result: &Value) -> Result<Ipv4Addr, libcni::Error> {
    let ips = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|ip| &ip["address"]);
    let mut addresses = ips.chain([&result["ip4"]["ip"]]).filter_map(Value::as_str);
    addresses
        .find_map(|address| address.split('/').next()?.parse().ok())
        .ok_or_else(|| libcni::Error::Result(format!("no IPv4 address in {result}")))
}

/// Unlikely to come twice, which is all that names need.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
