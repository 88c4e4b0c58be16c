//! What the eBPF programs alone cost: `BPF_PROG_TEST_RUN` of the programs and maps that the plugin has put in place on a node. A run
//! each, since a program that has rewritten a packet would next time meet another one; the time includes two reads of the clock.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use azure_vnet_abi::{ABI_VERSION, programs};
use azure_vnet_testbed::Azure;
use azure_vnet_testbed::address_plan::{FABRIC_MAC, INTERNET, Mac};
use azure_vnet_testbed::conflist::Conflist;
use azure_vnet_testbed::pod::PodSpec;
use serde_json::{Value, json};

use crate::cpu::{NEAR, stay};
use crate::plot::number;
use crate::report::{Part, series_json};
use crate::series::Series;
use crate::wire::{frame, mac};

const RUNS: usize = 5000;
/// More than there are ports to masquerade with.
const FLOWS: u16 = 30_000;
const REMOTE: SocketAddrV4 = SocketAddrV4::new(INTERNET[0], 53);
const TC_ACT_SHOT: u32 = 2;

/// One row: which program, which packet.
struct Row {
    program: &'static str,
    packet: &'static str,
    nanoseconds: Series,
}

/// The pinned programs of a node, and the pod whose packets they get.
struct Node {
    from_pod: SchedClassifier,
    to_uplink: SchedClassifier,
    from_uplink: SchedClassifier,
    ifindex: u32,
    pod: Ipv4Addr,
    pod_mac: Mac,
    primary: Ipv4Addr,
    mac: Mac,
}

pub fn measure() -> Result<Part> {
    let azure = Azure::builder().build()?;
    let vm = &azure.vms[0];
    let list = Conflist::shipped().with_setting(
        "azure-vnet",
        "masquerade",
        &json!({ "datapath": "ebpf" }),
    );
    let pod = vm.add_pod(&list, &PodSpec::named("pod"))?;
    let interfaces = pod.result["interfaces"]
        .as_array()
        .context("a result without interfaces")?;
    let text = |index: usize, key: &str| {
        interfaces
            .get(index)
            .and_then(|interface| interface[key].as_str())
    };
    let veth = text(1, "name").context("no host veth in the result")?;
    let pod_mac = text(2, "mac")
        .and_then(mac)
        .context("no MAC of the pod in the result")?;
    let rows = vm.namespace().run(|| -> Result<Vec<Row>> {
        stay(NEAR);
        let index = std::fs::read_to_string(format!("/sys/class/net/{veth}/ifindex"))?;
        Node {
            from_pod: open(programs::FROM_POD)?,
            to_uplink: open(programs::TO_UPLINK)?,
            from_uplink: open(programs::FROM_UPLINK)?,
            ifindex: index.trim().parse()?,
            pod: pod.address,
            pod_mac,
            primary: vm.nic.primary,
            mac: vm.nic.mac,
        }
        .rows()
    })??;
    Ok(part(&rows))
}

impl Node {
    fn rows(&self) -> Result<Vec<Row>> {
        let row = |program, packet, nanoseconds| Row {
            program,
            packet,
            nanoseconds,
        };
        let out = self.out(20_000);
        let (_, masqueraded) = run(&self.to_uplink, &out, None)?;
        let port = u16::from_be_bytes([masqueraded[34], masqueraded[35]]);
        let back = frame(
            self.mac,
            FABRIC_MAC,
            REMOTE,
            SocketAddrV4::new(self.primary, port),
        );
        let nodes_own = frame(
            FABRIC_MAC,
            self.mac,
            SocketAddrV4::new(self.primary, 22),
            REMOTE,
        );
        let to_node = frame(
            self.mac,
            FABRIC_MAC,
            REMOTE,
            SocketAddrV4::new(self.primary, 22),
        );
        let inside = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 53);
        let in_range = frame(
            FABRIC_MAC,
            self.pod_mac,
            SocketAddrV4::new(self.pod, 20_000),
            inside,
        );

        let mut rows = vec![
            row(
                programs::TO_UPLINK,
                "the node's own, passes",
                repeated(&self.to_uplink, &nodes_own, None)?,
            ),
            row(
                programs::FROM_UPLINK,
                "to the node, passes",
                repeated(&self.from_uplink, &to_node, None)?,
            ),
            row(
                programs::TO_UPLINK,
                "in range",
                repeated(&self.to_uplink, &in_range, None)?,
            ),
            row(
                programs::FROM_POD,
                "established out",
                repeated(&self.from_pod, &out, Some(self.ifindex))?,
            ),
            row(
                programs::TO_UPLINK,
                "established out",
                repeated(&self.to_uplink, &out, None)?,
            ),
            row(
                programs::FROM_UPLINK,
                "established in",
                repeated(&self.from_uplink, &back, None)?,
            ),
        ];
        let mut new = Vec::new();
        let mut exhausted = Vec::new();
        for number in 0..FLOWS {
            let (time, verdict) = timed(&self.to_uplink, &self.out(30_000 + number), None)?;
            if verdict == TC_ACT_SHOT {
                exhausted.push(time);
            } else {
                new.push(time);
            }
        }
        ensure!(new.len() > 2000, "only {} flows to one remote", new.len());
        let few = new[..1000].iter().copied().collect();
        rows.push(row(programs::TO_UPLINK, "new flow", few));
        let last = new[new.len() - 100..].iter().copied().collect();
        rows.push(row(
            programs::TO_UPLINK,
            "new flow, the last 100 ports that the pod may have for a remote",
            last,
        ));
        if !exhausted.is_empty() {
            let none_left = exhausted.into_iter().collect();
            rows.push(row(
                programs::TO_UPLINK,
                "new flow, no port left: dropped",
                none_left,
            ));
        }
        Ok(rows)
    }

    /// From the pod to outside, by this port.
    fn out(&self, port: u16) -> Vec<u8> {
        frame(
            FABRIC_MAC,
            self.pod_mac,
            SocketAddrV4::new(self.pod, port),
            REMOTE,
        )
    }
}

fn repeated(program: &SchedClassifier, frame: &[u8], ifindex: Option<u32>) -> Result<Series> {
    (0..RUNS)
        .map(|_| Ok(timed(program, frame, ifindex)?.0))
        .collect()
}

/// Nanoseconds and verdict.
fn timed(program: &SchedClassifier, frame: &[u8], ifindex: Option<u32>) -> Result<(f64, u32)> {
    let context = ifindex.map(context);
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        ctx_in: context.as_ref().map(<[u8; 44]>::as_slice),
        ..TestRunOptions::default()
    })?;
    Ok((result.duration.as_secs_f64() * 1e9, result.return_value))
}

/// Verdict and the packet afterwards.
fn run(program: &SchedClassifier, frame: &[u8], ifindex: Option<u32>) -> Result<(u32, Vec<u8>)> {
    let context = ifindex.map(context);
    let mut out = vec![0; frame.len()];
    let result = program.test_run(TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: context.as_ref().map(<[u8; 44]>::as_slice),
        ..TestRunOptions::default()
    })?;
    Ok((result.return_value, out))
}

/// A `struct __sk_buff` up to `ifindex`.
fn context(ifindex: u32) -> [u8; 44] {
    let mut context = [0; 44];
    context[40..].copy_from_slice(&ifindex.to_ne_bytes());
    context
}

/// The program as the plugin has pinned it, of whichever build.
fn open(name: &'static str) -> Result<SchedClassifier> {
    let builds = PathBuf::from(format!(
        "/sys/fs/bpf/azure-vnet/v{ABI_VERSION}/azure0/programs"
    ));
    let build = std::fs::read_dir(&builds)?
        .next()
        .context("no build is pinned")??;
    let path = build.path().join(name);
    SchedClassifier::from_pin(&path).with_context(|| format!("no program at {}", path.display()))
}

fn part(rows: &[Row]) -> Part {
    let mut text = String::from(
        "## The eBPF programs alone\n\n`BPF_PROG_TEST_RUN`, one run each, nanoseconds; two reads of the clock, about as much as a \
         program that passes a packet, are in every figure.\n\n| program | packet | median | quartiles |\n|---|---|---:|---:|\n",
    );
    for row in rows {
        let (first, third) = row.nanoseconds.quartiles();
        let median = number(row.nanoseconds.median());
        let _ = writeln!(
            text,
            "| `{}` | {} | {median} | {} … {} |",
            row.program,
            row.packet,
            number(first),
            number(third),
        );
    }
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut series = series_json(&row.nanoseconds);
            // Thousands of single values help nobody.
            series["values"].take();
            json!({ "program": row.program, "packet": row.packet, "ns": series })
        })
        .collect();
    Part {
        key: "programs",
        markdown: text,
        json: rows.into(),
    }
}
