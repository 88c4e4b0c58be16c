//! A sandbox, and an attachment to it: what a runtime has in hand when it calls a plugin.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::{NETNS_DIR, PLUGIN_DIR};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;

use crate::call::{Call, Reply};
use crate::fixture::{Node, links};
use crate::row::Verdict;

impl Node {
    /// An attachment of the fixture's configuration with a container ID of its own, in a sandbox that nobody else uses.
    pub fn attach(&self, version: &str) -> Attachment<'_> {
        self.attach_with(self.conf(version))
    }

    /// The same with another configuration.
    pub fn attach_with(&self, conf: Value) -> Attachment<'_> {
        Attachment {
            node: self,
            id: format!("c{}", self.number()),
            ifname: "eth0".into(),
            sandbox: Arc::new(self.sandbox()),
            conf,
            cni_path: PLUGIN_DIR.into(),
            touched: Cell::new(false),
        }
    }

    /// A network namespace with nothing but `lo`, and a path on the VM.
    pub fn sandbox(&self) -> Sandbox<'_> {
        let used = self
            .sandboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let (path, namespace) = used.unwrap_or_else(|| {
            let path = format!("{NETNS_DIR}/s{}", self.number());
            let namespace = self.vm().new_sandbox(&path).unwrap();
            (path, namespace)
        });
        Sandbox {
            node: self,
            path,
            namespace: Some(namespace),
            gone: AtomicBool::new(false),
        }
    }
}

/// A network namespace for a container.
pub struct Sandbox<'a> {
    node: &'a Node,
    /// Where it is on the VM.
    pub path: String,
    namespace: Option<Namespace>,
    gone: AtomicBool,
}

impl Sandbox<'_> {
    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        self.namespace.as_ref().expect("held until drop")
    }

    /// Takes the path away, as when a runtime removed the namespace; it lives on only as long as this value.
    pub fn remove_path(&self) {
        if !self.gone.swap(true, Ordering::Relaxed) {
            self.node.vm().remove_sandbox(&self.path).unwrap();
        }
    }

    /// Leaves a plain file in the place of the path: what a namespace looks like after somebody unmounted it.
    pub fn unmount(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.node
            .inside(|| unmount(&self.path, UnmountFlags::DETACH))
            .unwrap();
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        let Some(namespace) = self.namespace.take() else {
            return;
        };
        if self.gone.load(Ordering::Relaxed) {
            return;
        }
        if links(&namespace) == ["lo"] {
            let mut free = self
                .node
                .sandboxes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            free.push((std::mem::take(&mut self.path), namespace));
        } else if let Err(error) = self.node.vm().remove_sandbox(&self.path) {
            eprintln!("{}: {error}", self.path);
        }
    }
}

/// What a runtime calls a plugin for: one interface of one container. Dropping it runs DEL if ADD was called and no DEL succeeded.
pub struct Attachment<'a> {
    /// The VM.
    pub node: &'a Node,
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_NETNS`.
    pub sandbox: Arc<Sandbox<'a>>,
    /// Standard input.
    pub conf: Value,
    /// `CNI_PATH`.
    pub cni_path: String,
    touched: Cell<bool>,
}

impl<'a> Attachment<'a> {
    /// A call of the network plugin with all six variables, as libcni makes it.
    pub fn call(&self, command: &str) -> Call<'a> {
        if command == "ADD" {
            self.touched.set(true);
        }
        let plugin = self.conf["type"].as_str().expect("a type");
        self.call_of(plugin, command)
    }

    /// The same call of the IPAM plugin, as a network plugin makes it.
    pub fn call_ipam(&self, command: &str) -> Call<'a> {
        let plugin = self.conf["ipam"]["type"].as_str().expect("a type");
        self.call_of(plugin, command)
    }

    fn call_of(&self, plugin: &str, command: &str) -> Call<'a> {
        self.node
            .program(plugin)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &self.id)
            .env("CNI_NETNS", &self.sandbox.path)
            .env("CNI_IFNAME", &self.ifname)
            .env("CNI_ARGS", "")
            .env("CNI_PATH", &self.cni_path)
            .conf(&self.conf)
    }

    /// ADD that must succeed; the result.
    pub fn add(&self) -> Verdict<Value> {
        self.call("ADD").run().result()
    }

    /// DEL that must succeed, as libcni makes it for a version that has no `prevResult` on DEL.
    pub fn del(&self) -> Verdict {
        self.del_by(self.call("DEL"))
    }

    /// DEL at the end of a check that is not about DEL. Ours must succeed all the same; for the reference the rows about DEL tell.
    pub fn finish(&self) -> Verdict {
        let reply = self.call("DEL").run();
        self.touched.set(false);
        if self.node.subject.is_ours() {
            reply.silent()
        } else {
            Ok(())
        }
    }

    /// DEL by this call, which must succeed.
    pub fn del_by(&self, call: Call<'_>) -> Verdict {
        call.run().silent()?;
        self.touched.set(false);
        Ok(())
    }

    /// The configuration with `prevResult`, which runtimes send with CHECK, and with DEL from 0.4.0 on.
    pub fn conf_with(&self, result: &Value) -> Value {
        let mut conf = self.conf.clone();
        conf["prevResult"] = result.clone();
        conf
    }

    /// CHECK against a result.
    pub fn check(&self, result: &Value) -> Reply {
        self.call("CHECK").conf(&self.conf_with(result)).run()
    }

    /// A second interface of the same container.
    pub fn sister(&self, ifname: &str) -> Attachment<'a> {
        Attachment {
            node: self.node,
            id: self.id.clone(),
            ifname: ifname.into(),
            sandbox: Arc::clone(&self.sandbox),
            conf: self.conf.clone(),
            cni_path: self.cni_path.clone(),
            touched: Cell::new(false),
        }
    }

    /// There is nothing to clean up: the check did it in its own way.
    pub fn forget(&self) {
        self.touched.set(false);
    }
}

impl Drop for Attachment<'_> {
    fn drop(&mut self) {
        if self.touched.get() {
            let mut call = self.call("DEL").unrecorded();
            if self.sandbox.gone.load(Ordering::Relaxed) {
                call = call.env("CNI_NETNS", "");
            }
            call.run();
        }
    }
}
