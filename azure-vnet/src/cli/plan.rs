//! `azure-vnet plan`: what a cluster definition needs before its pods can run.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use azure_vnet_files::ReadError;
use clap::Args;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::output::{Output, wrapped};
use super::table::Table;
use super::{Failure, Outcome};
use crate::cluster::{self, Cluster, Files, NicNames, Problem};

/// A definition has some kilobytes.
const LARGEST: u64 = 1024 * 1024;

#[derive(Args)]
pub struct Options {
    /// The cluster definition (Azure Container Service engine, `apiVersion: vlabs`); `-` reads standard input.
    definition: PathBuf,
    /// A peered VNet's or an on-premises network: pods keep their address towards it, too. May be given more than once.
    #[arg(long = "range", value_name = "CIDR")]
    ranges: Vec<Ipv4Net>,
    /// How the VMs' NICs are called.
    #[arg(long, value_name = "PATTERN", default_value = NicNames::DEFAULT)]
    nic_names: String,
    /// Writes 10-azure.conflist, allocate-addresses.sh (Azure CLI) and nics.json (ARM template) into this folder.
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
    /// Replaces files that are there already.
    #[arg(long, requires = "write")]
    force: bool,
}

#[derive(Serialize)]
struct Plan {
    valid: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Fault>,
    #[serde(flatten)]
    needs: Option<Needs>,
}

#[derive(Serialize)]
struct Fault {
    path: String,
    problem: String,
}

#[derive(Serialize)]
struct Needs {
    vms: Vec<Vm>,
    /// Of the masters.
    subnet: Ipv4Net,
    /// In that subnet.
    addresses_needed: u32,
    /// Of that subnet when it is empty; Azure keeps five.
    addresses_usable: u32,
    fits: bool,
    /// Of agents; how large they are, the definition does not say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    other_subnets: Vec<OtherSubnet>,
    non_masquerade_cidrs: Vec<Ipv4Net>,
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct OtherSubnet {
    id: String,
    name: String,
    addresses_needed: u32,
}

#[derive(Serialize)]
struct Vm {
    pool: String,
    index: u16,
    /// Where it is fixed.
    address: Option<Ipv4Addr>,
    max_pods: u16,
    /// Of its NIC: its own and one for each pod.
    ipconfigs: u16,
    /// Whether it is one of a scale set, whose model has the ipconfigs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    scale_set: bool,
}

/// Prints the plan; a problem if the definition has a fault or the subnet is too small.
pub fn run(options: &Options, output: Output) -> Result<Outcome, Failure> {
    let nics = NicNames::new(&options.nic_names).map_err(Failure::new)?;
    let plan = match cluster::read(&read(&options.definition)?) {
        Ok(cluster) => {
            let files = Files::of(&cluster, &options.ranges, &nics);
            let written = match &options.write {
                Some(folder) => write(folder, &files, options.force)?,
                None => Vec::new(),
            };
            Plan {
                valid: true,
                problems: Vec::new(),
                needs: Some(Needs::of(&cluster, &options.ranges, written)),
            }
        }
        Err(problems) => Plan {
            valid: false,
            problems: problems.into_iter().map(Fault::from).collect(),
            needs: None,
        },
    };
    output.show(&plan)?;
    let fine = plan.needs.is_some_and(|needs| needs.fits);
    Ok(if fine {
        Outcome::Fine
    } else {
        Outcome::Problem
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let too_large = || {
        Failure::new(format!(
            "{shown} has more than {LARGEST} bytes: no cluster definition"
        ))
    };
    if path == Path::new("-") {
        let mut text = String::new();
        let read = io::stdin().take(LARGEST + 1).read_to_string(&mut text);
        let length = read.map_err(|error| Failure::new(format!("cannot read {shown}: {error}")))?;
        return if length as u64 > LARGEST {
            Err(too_large())
        } else {
            Ok(text)
        };
    }
    azure_vnet_files::read_text(path, LARGEST).map_err(|error| match error {
        ReadError::TooLarge(_) => too_large(),
        ReadError::NotRegular => Failure::new(format!(
            "{shown} is not a regular file; - reads standard input"
        )),
        other => Failure::new(format!("cannot read {shown}: {other}")),
    })
}

/// All of the files or none: what is there already ends it before the first is written.
fn write(folder: &Path, files: &Files, force: bool) -> Result<Vec<PathBuf>, Failure> {
    let contents = [
        ("10-azure.conflist", &files.conflist),
        ("allocate-addresses.sh", &files.azure_cli),
        ("nics.json", &files.template),
    ];
    let paths: Vec<PathBuf> = contents.iter().map(|(name, _)| folder.join(name)).collect();
    if let Some(path) = paths.iter().find(|path| path.exists())
        && !force
    {
        let path = path.display();
        return Err(Failure::new(format!(
            "{path} is there already: --force replaces it"
        )));
    }
    fs::create_dir_all(folder)
        .map_err(|error| Failure::new(format!("cannot create {}: {error}", folder.display())))?;
    for (path, (_, content)) in paths.iter().zip(contents) {
        azure_vnet_files::replace(path, content.as_bytes(), 0o644)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(paths)
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self {
            path: problem.path,
            problem: problem.what,
        }
    }
}

impl Needs {
    fn of(cluster: &Cluster, connected: &[Ipv4Net], files: Vec<PathBuf>) -> Self {
        let vm = |vm: cluster::Vm<'_>| Vm {
            pool: vm.pool.name.clone(),
            index: vm.index,
            address: vm.address,
            max_pods: vm.pool.max_pods,
            ipconfigs: vm.pool.addresses,
            scale_set: vm.pool.is_scale_set,
        };
        let other = |id: &cluster::SubnetId| OtherSubnet {
            id: id.to_string(),
            name: id.name().to_owned(),
            addresses_needed: cluster.needed_in(id),
        };
        Self {
            vms: cluster.vms().map(vm).collect(),
            subnet: cluster.subnet,
            addresses_needed: cluster.needed_in(&cluster.subnet_id),
            addresses_usable: cluster.usable(),
            fits: cluster.fits(),
            other_subnets: cluster.other_subnets().into_iter().map(other).collect(),
            non_masquerade_cidrs: cluster.ranges(connected),
            files,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(needs) = &self.needs {
            return needs.fmt(out);
        }
        let count = self.problems.len();
        let what = if count == 1 { "problem" } else { "problems" };
        writeln!(out, "The definition has {count} {what}:")?;
        for Fault { path, problem } in &self.problems {
            writeln!(out, "{}", wrapped(&format!("{path}: {problem}"), 2))?;
        }
        Ok(())
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["vm", "address", ">pods", ">ipconfigs"]);
        for vm in &self.vms {
            table.row([
                format!("{}-{}", vm.pool, vm.index),
                vm.address
                    .map_or_else(|| "any".into(), |own| own.to_string()),
                vm.max_pods.to_string(),
                vm.ipconfigs.to_string(),
            ]);
        }
        writeln!(out, "{table}")?;
        let Self {
            subnet,
            addresses_needed,
            addresses_usable,
            ..
        } = self;
        let verdict = if self.fits {
            "it holds them"
        } else {
            "it is too small: enlarge it, or run fewer pods (max-pods) or VMs (count)"
        };
        let room = format!(
            "{subnet} has {addresses_usable} addresses, {addresses_needed} are needed: {verdict}."
        );
        writeln!(out, "{}", wrapped(&room, 0))?;
        for OtherSubnet {
            name,
            addresses_needed,
            ..
        } in &self.other_subnets
        {
            let room = format!(
                "Of {name}, {addresses_needed} addresses are needed; how many it has, the definition does not say."
            );
            writeln!(out, "{}", wrapped(&room, 0))?;
        }
        let mut scale_sets: Vec<&Vm> = self.vms.iter().filter(|vm| vm.scale_set).collect();
        scale_sets.dedup_by_key(|vm| &vm.pool);
        for Vm {
            pool, ipconfigs, ..
        } in scale_sets
        {
            let model = format!(
                "{pool} is a scale set: its model has to have {ipconfigs} ipconfigs for each NIC; the files that are written here are for NICs of their own."
            );
            writeln!(out, "{}", wrapped(&model, 0))?;
        }
        let ranges: Vec<String> = self
            .non_masquerade_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        let ranges = format!(
            "Pods keep their address towards {}; what goes elsewhere is masqueraded.",
            ranges.join(", ")
        );
        writeln!(out, "{}", wrapped(&ranges, 0))?;
        for file in &self.files {
            writeln!(out, "Written: {}", file.display())?;
        }
        Ok(())
    }
}
