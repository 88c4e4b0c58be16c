//! What the kernel alone takes for a pod's link: the least that any plugin has to wait for.

use std::time::Instant;

use anyhow::Result;
use azure_vnet_testbed::Vm;

use super::Row;
use super::candidate::Candidate;
use crate::node::batch;
use crate::series::Series;

const BRIDGE: &str = "bare";

/// A veth pair with one end in a namespace and the other in a bridge, made and deleted by `ip`.
pub struct Bare<'a> {
    vm: &'a Vm,
}

impl<'a> Bare<'a> {
    /// With a bridge of its own, which leads nowhere.
    pub fn new(vm: &'a Vm) -> Result<Self> {
        let lines = [
            format!("link add {BRIDGE} type bridge"),
            format!("link set {BRIDGE} up"),
        ];
        batch(vm.namespace(), &lines)?;
        Ok(Self { vm })
    }

    pub fn row(load: String) -> Row {
        Row {
            candidate: "`ip`: a veth pair in a bridge, nothing else".to_owned(),
            load,
            add: Series::default(),
            del: Series::default(),
        }
    }

    /// One pair.
    pub fn timed(&self, row: &mut Row) -> Result<()> {
        let name = "pair";
        let attachment = Candidate::attachment(name);
        let _sandbox = self.vm.new_sandbox(&attachment.netns)?;
        let add = [
            format!("link add {name} type veth peer name eth0 netns {name}"),
            format!("link set {name} master {BRIDGE} up"),
        ];
        let delete = [format!("link delete {name}")];
        let start = Instant::now();
        batch(self.vm.namespace(), &add)?;
        row.add.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        batch(self.vm.namespace(), &delete)?;
        row.del.push(start.elapsed().as_secs_f64() * 1e3);
        Ok(self.vm.remove_sandbox(&attachment.netns)?)
    }
}
