//! What each program of the eBPF object costs: `ebpf-stats <object>`.
//!
//! Loads the programs without attaching any, so nothing on the machine changes. Maps that ask to be
//! pinned find a bpffs that is mounted nowhere and ends with this process.

use std::{
    fmt::Write as _,
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use aya::{
    EbpfLoader,
    programs::{Program, ProgramError, SchedClassifier},
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// How much of the verifier's log is shown.
const LOG_LINES: usize = 25;

fn main() -> ExitCode {
    let Some(object) = std::env::args_os().nth(1) else {
        eprintln!("usage: ebpf-stats <object>");
        return ExitCode::FAILURE;
    };
    match table(Path::new(&object)) {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ebpf-stats: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One line per program: instructions the verifier walked, bytes before and after the JIT, maps.
fn table(object: &Path) -> Result<String> {
    let bpffs = detached_bpffs().context("cannot make a bpffs (kernel 5.2 or later, root)")?;
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(format!("/proc/self/fd/{}", bpffs.as_raw_fd()))
        .load_file(object)
        .with_context(|| format!("cannot load {}", object.display()))?;

    let mut programs: Vec<(&str, &mut Program)> = ebpf.programs_mut().collect();
    programs.sort_by_key(|(name, _)| *name);
    let mut table = format!(
        "{:<14}{:>22}{:>13}{:>13}{:>6}\n",
        "program", "verified instructions", "bytes", "jited bytes", "maps"
    );
    for (name, program) in programs {
        let program: &mut SchedClassifier = program
            .try_into()
            .with_context(|| format!("{name} is no TC classifier"))?;
        load(program, object).with_context(|| format!("cannot load {name}"))?;
        writeln!(table, "{name:<14}{}", row(program)?)?;
    }
    Ok(table)
}

/// Loads a program, which runs the verifier. What the verifier says can be a hundred thousand lines:
/// the end of it is shown, all of it is left beside the object.
fn load(program: &mut SchedClassifier, object: &Path) -> Result<()> {
    let Err(error) = program.load() else {
        return Ok(());
    };
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return Err(error.into());
    };
    let path = object.with_extension("verifier.log");
    let log = verifier_log.to_string();
    fs::write(&path, &log).with_context(|| format!("cannot write {}", path.display()))?;
    let lines: Vec<&str> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    bail!(
        "{io_error}; the verifier's last words, all of them in {}:\n{end}",
        path.display()
    )
}

/// The figures of a loaded program; `-` where the kernel gives none.
fn row(program: &SchedClassifier) -> Result<String> {
    let info = program.info()?;
    let figure = |value: Option<u32>| value.map_or("-".to_owned(), |value| value.to_string());
    Ok(format!(
        "{:>22}{:>13}{:>13}{:>6}",
        figure(info.verified_instruction_count()),
        figure(info.size_translated()),
        info.size_jitted(),
        figure(
            info.map_ids()?
                .map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX))
        ),
    ))
}

/// A bpffs that no path leads to.
fn detached_bpffs() -> rustix::io::Result<OwnedFd> {
    let bpffs = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&bpffs)?;
    fsmount(
        &bpffs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}
