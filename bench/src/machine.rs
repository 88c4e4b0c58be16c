//! The machine that the figures are of.

use std::fs;

use serde_json::{Value, json};

/// Kernel, CPU, mitigations, memory; what cannot be read is left empty.
pub fn facts() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpus = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: Option<u64> = field(&memory, "MemTotal")
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok());
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "build": read("/proc/sys/kernel/version"),
        "cpu": field(&cpu, "model name"),
        "cpus": cpus,
        "memory_gib": kilobytes.map(|kilobytes| kilobytes >> 20),
        "virtual": cpu.contains(" hypervisor"),
        "bpf_jit": read("/proc/sys/net/core/bpf_jit_enable"),
        "spectre_v2": read("/sys/devices/system/cpu/vulnerabilities/spectre_v2"),
        "load_before": read("/proc/loadavg"),
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}
