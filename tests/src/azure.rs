//! The whole: fabric, platform services, hosts outside, VMs.

use std::env;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::address_plan::{INSIDE, INTERNET, MAX_POOL, MAX_VMS, Nic, ON_PREM, PEERED, WIRESERVER};
use crate::fabric::{Fabric, vm_link};
use crate::host::Host;
use crate::http::{Access, Server};
use crate::namespace::Namespace;
use crate::reporter::Reporter;
use crate::vm::{self, Vm};
use crate::{Error, dhcp, imds, wireserver};

/// The variable that names the directory of the plugins under test.
pub const BIN_DIR_VARIABLE: &str = "AZURE_VNET_BIN_DIR";
/// The port on which 168.63.129.16 reports the source it saw, and answers for names.
pub const PLATFORM_REPORT_PORT: u16 = 53;

/// A simulated Azure. Dropping it removes everything.
#[derive(Debug)]
pub struct Azure {
    // Fields are dropped in this order: machines first, the fabric last.
    /// The VMs, numbered from 0.
    pub vms: Vec<Vm>,
    /// A host in the internet, with three addresses; unknown destinations lead there as well.
    pub internet: Host,
    /// A host of the on-premises network.
    pub on_prem: Host,
    /// A host in a peered VNet.
    pub peered: Host,
    wireserver: Server,
    imds: Server,
    _platform_reporter: Reporter,
    ipconfigs: Ipconfigs,
    mtu: u16,
    /// The fabric between them.
    pub fabric: Fabric,
}

/// Which NICs each machine has, as the platform knows it; an operator may change it.
#[derive(Clone, Debug)]
pub(crate) struct Ipconfigs(Arc<Mutex<Vec<Vec<Nic>>>>);

impl Ipconfigs {
    /// As it is now.
    pub(crate) fn now(&self) -> Vec<Vec<Nic>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_primary(&self, machine: usize, primary: Ipv4Addr) {
        let mut machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        machines[machine][0].primary = primary;
    }
}

/// What to build; all of it has defaults.
#[derive(Debug)]
pub struct Builder {
    vms: u8,
    machines: u8,
    pool: u8,
    second_nic: Option<u8>,
    mtu: u16,
    bin_dir: Option<PathBuf>,
}

impl Azure {
    /// One VM with a pool of 40 addresses and an MTU of 1500, unless told otherwise.
    pub fn builder() -> Builder {
        Builder {
            vms: 1,
            machines: 0,
            pool: 40,
            second_nic: None,
            mtu: 1500,
            bin_dir: None,
        }
    }

    /// Makes a VM the only backend of a load balancer with floating IP: what comes for the frontend reaches the VM's first NIC with that
    /// address in it, and the VM answers from there, past the load balancer.
    pub fn balance(&self, vm: usize, frontend: Ipv4Addr) -> Result<(), Error> {
        self.fabric.balance(vm, self.vms[vm].nic.mac, frontend)
    }

    /// The requests that 168.63.129.16 answered or refused so far.
    pub fn wireserver_log(&self) -> Vec<Access> {
        self.wireserver.log()
    }

    /// The NIC of a machine, as it is now.
    ///
    /// # Panics
    ///
    /// If there is no such machine.
    pub fn nic(&self, machine: usize) -> Nic {
        self.ipconfigs.now()[machine][0].clone()
    }

    /// Gives a machine that boots by itself its NIC, `eth0` in this namespace, not configured, and filters what comes from it.
    pub fn connect(&self, machine: usize, namespace: &Namespace) -> Result<(), Error> {
        let nic = self.nic(machine);
        vm::kernel_settings(namespace)?;
        self.fabric
            .connect_vm(machine, 0, &nic, namespace, self.mtu)
    }

    /// Takes the NIC away again, as when a machine is turned off. What was counted against it stays.
    pub fn disconnect(&self, machine: usize) -> Result<(), Error> {
        self.fabric.disconnect_vm(machine)
    }

    /// DHCP for a machine that is connected, with leases of so many seconds.
    pub fn serve_dhcp(&self, machine: usize, seconds: u32) -> Result<dhcp::Server, Error> {
        let (fabric, nic) = (self.fabric.namespace(), self.nic(machine));
        let link = vm_link(machine, 0);
        dhcp::Server::start(fabric, &link, &nic, seconds).map_err(|source| Error::Setup {
            what: format!("start DHCP for {link}"),
            source,
        })
    }

    /// Makes this the primary address of a machine that is connected, in place of the one before.
    pub fn readdress(&self, machine: usize, primary: Ipv4Addr) -> Result<(), Error> {
        self.fabric
            .readdress_vm(machine, &self.nic(machine), primary)?;
        self.ipconfigs.set_primary(machine, primary);
        Ok(())
    }

    /// The requests that 169.254.169.254 answered or refused so far.
    pub fn imds_log(&self) -> Vec<Access> {
        self.imds.log()
    }
}

impl Builder {
    /// How many VMs, at most 16.
    #[must_use]
    pub fn vms(self, vms: u8) -> Self {
        Self { vms, ..self }
    }

    /// How many machines there are beside, which are booted by whoever asks for them. They are numbered after the VMs.
    #[must_use]
    pub fn machines(self, machines: u8) -> Self {
        Self { machines, ..self }
    }

    /// How many secondary addresses each VM has for pods, at most 250.
    #[must_use]
    pub fn pool(self, pool: u8) -> Self {
        Self { pool, ..self }
    }

    /// Gives each VM a second NIC, `eth1`, with a pool of this size in a subnet of its own.
    #[must_use]
    pub fn second_nic(self, pool: u8) -> Self {
        Self {
            second_nic: Some(pool),
            ..self
        }
    }

    /// The MTU of the VMs' NICs, in bytes.
    #[must_use]
    pub fn mtu(self, mtu: u16) -> Self {
        Self { mtu, ..self }
    }

    /// Where the plugins under test are. Otherwise `AZURE_VNET_BIN_DIR` says so, or cargo's target directory is taken.
    #[must_use]
    pub fn bin_dir(self, bin_dir: impl Into<PathBuf>) -> Self {
        Self {
            bin_dir: Some(bin_dir.into()),
            ..self
        }
    }

    /// Builds it, in well under a second. Whatever an error leaves half done goes away with it.
    pub fn build(self) -> Result<Azure, Error> {
        self.check()?;
        let service = |what: &'static str| {
            move |source| Error::Setup {
                what: format!("start {what}"),
                source,
            }
        };
        let bin_dir = self.bin_dir.map_or_else(bin_dir, Ok)?;
        let nics_of = |vm| {
            let second = self.second_nic.map(|pool| Nic::second_of_vm(vm, pool));
            let nics = std::iter::once(Nic::of_vm(vm, self.pool)).chain(second);
            nics.collect::<Vec<_>>()
        };
        let nics: Vec<_> = (0..self.vms + self.machines).map(nics_of).collect();
        let ipconfigs = Ipconfigs(Arc::new(Mutex::new(nics.clone())));

        let fabric = Fabric::new()?;
        fabric.watch_for_leaks(nics.iter().flatten(), INSIDE)?;
        let wireserver = wireserver::start(fabric.namespace(), ipconfigs.clone())
            .map_err(service("the wireserver"))?;
        let imds = imds::start(fabric.namespace(), ipconfigs.clone())
            .map_err(service("the metadata service"))?;
        let platform_reporter =
            Reporter::start(fabric.namespace(), &[WIRESERVER], PLATFORM_REPORT_PORT)
                .map_err(service("the reporter of 168.63.129.16"))?;
        let internet = Host::new(&fabric, "internet", &INTERNET, true)?;
        let on_prem = Host::new(&fabric, "on-prem", &[ON_PREM], false)?;
        let peered = Host::new(&fabric, "peered", &[PEERED], false)?;
        let boot = |(number, nics)| Vm::boot(&fabric, number, nics, self.mtu, &bin_dir);
        let vms = nics
            .into_iter()
            .take(self.vms.into())
            .enumerate()
            .map(boot)
            .collect::<Result<_, _>>()?;

        Ok(Azure {
            vms,
            internet,
            on_prem,
            peered,
            wireserver,
            imds,
            _platform_reporter: platform_reporter,
            ipconfigs,
            mtu: self.mtu,
            fabric,
        })
    }

    fn check(&self) -> Result<(), Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        if self.vms.saturating_add(self.machines) > MAX_VMS
            || self.pool.max(self.second_nic.unwrap_or(0)) > MAX_POOL
        {
            return Err(Error::TooMany(format!(
                "{} VMs with {} addresses: at most {MAX_VMS} with {MAX_POOL}",
                self.vms, self.pool
            )));
        }
        Ok(())
    }
}

/// Where the plugins under test are: `AZURE_VNET_BIN_DIR`, or the directory of the cargo profile that the running program was built in,
/// `target/<profile>`.
pub fn bin_dir() -> Result<PathBuf, Error> {
    if let Some(dir) = env::var_os(BIN_DIR_VARIABLE) {
        return Ok(dir.into());
    }
    let failed = |source| Error::Setup {
        what: format!("find the plugins under test; set {BIN_DIR_VARIABLE}"),
        source,
    };
    let mut dir = env::current_exe().map_err(failed)?;
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    Ok(dir)
}
