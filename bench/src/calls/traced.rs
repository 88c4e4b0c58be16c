//! One ADD and one DEL looked at closely: programs, system calls, netlink messages, files synced, memory.

use std::fmt::Write as _;
use std::io::Read as _;
use std::mem::zeroed;

use anyhow::{Context, Result, ensure};
use azure_vnet_testbed::PLUGIN_DIR;
use azure_vnet_testbed::process::Program;
use azure_vnet_testbed::trace::{self, Counts};
use serde_json::{Value, json};

use super::candidate::Candidate;

const TRACE: &str = "/run/bench.trace";

/// The counts of an ADD and of its DEL.
pub fn calls(candidate: &Candidate<'_>) -> Result<Value> {
    let attachment = Candidate::attachment("traced");
    let _sandbox = candidate.vm.new_sandbox(&attachment.netns)?;
    let own = std::env::current_exe()?;
    let own = own.to_str().context("our own path is not text")?;
    let rss = |verb| -> Result<u64> {
        let text = call(candidate, own, &["--peak-rss-of"], verb)?.checked()?;
        text.trim()
            .parse()
            .with_context(|| format!("no peak RSS: {text}"))
    };
    let counts = |verb| -> Result<Value> {
        call(candidate, "strace", &trace::options(TRACE), verb)?.checked()?;
        let counts = Counts::read(&candidate.vm.program("cat")?.arg(TRACE).checked()?);
        Ok(json!({
            "programs": counts.programs.len(), "system_calls": counts.system_calls, "netlink_messages": counts.netlink_messages,
            "files_synced": counts.files_synced, "threads_and_processes": counts.started,
        }))
    };
    let (add_rss, del_rss) = (rss("ADD")?, rss("DEL")?);
    let (add, del) = (counts("ADD")?, counts("DEL")?);
    candidate.vm.remove_sandbox(&attachment.netns)?;
    let mut bytes = 0;
    for program in candidate.kind.programs() {
        let stat =
            candidate
                .vm
                .program("stat")?
                .args(["-c", "%s", &format!("{PLUGIN_DIR}/{program}")]);
        bytes += stat.checked()?.trim().parse::<u64>()?;
    }
    Ok(json!({
        "plugin": candidate.kind.to_string(), "add": add, "del": del,
        "add_peak_rss_kib": add_rss, "del_peak_rss_kib": del_rss, "binaries_bytes": bytes,
    }))
}

/// The other end of `--peak-rss-of`: runs the plugin as the only child of a small process, since a child's peak is never less than
/// what its parent had when it was forked. Prints KiB.
pub fn run_and_print_peak_rss(plugin: &str) -> Result<()> {
    let mut stdin = Vec::new();
    std::io::stdin().read_to_end(&mut stdin)?;
    Program::new(plugin).stdin(stdin).checked()?;
    // SAFETY: the kernel fills a structure of numbers, which may begin as zeros.
    let (result, usage) = unsafe {
        let mut usage: libc::rusage = zeroed();
        (
            libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage),
            usage,
        )
    };
    ensure!(
        result == 0,
        "getrusage: {}",
        std::io::Error::last_os_error()
    );
    println!("{}", usage.ru_maxrss);
    Ok(())
}

fn call(candidate: &Candidate<'_>, wrapper: &str, options: &[&str], verb: &str) -> Result<Program> {
    let plugin = format!("{PLUGIN_DIR}/{}", candidate.kind.programs()[0]);
    let attachment = Candidate::attachment("traced");
    let program = candidate.vm.program(wrapper)?.args(options).arg(plugin);
    Ok(program
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", attachment.container_id)
        .env("CNI_NETNS", attachment.netns)
        .env("CNI_IFNAME", attachment.ifname)
        .env("CNI_ARGS", "")
        .env("CNI_PATH", PLUGIN_DIR)
        .stdin(candidate.stdin.clone()))
}

/// A table of the counts.
pub fn markdown(traced: &[Value]) -> String {
    let mut text = String::from(
        "\nOne call looked at closely (`strace -f`): programs executed, the plugin itself included; system calls; netlink messages \
         sent; files synced; threads and processes started; peak RSS of the largest process.\n\n\
         | plugin | verb | programs | system calls | netlink | synced | threads | peak RSS MiB | binaries MiB |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for candidate in traced {
        for verb in ["add", "del"] {
            let counts = &candidate[verb];
            let mib = |value: &Value, unit: f64| value.as_f64().unwrap_or(f64::NAN) / unit;
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} |",
                candidate["plugin"].as_str().unwrap_or_default(),
                verb.to_uppercase(),
                counts["programs"],
                counts["system_calls"],
                counts["netlink_messages"],
                counts["files_synced"],
                counts["threads_and_processes"],
                mib(&candidate[format!("{verb}_peak_rss_kib")], 1024.0),
                mib(&candidate["binaries_bytes"], 1_048_576.0),
            );
        }
    }
    text
}
