//! `cargo xtask build-ebpf`: the eBPF object that `azure-vnet` embeds, and what the kernel's
//! verifier makes of it, which may not be too much.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use crate::{
    bpf_compiler::Compiler,
    bpf_linker,
    command::{cargo, is_root, output, run},
    ebpf_object::{built_from, object_path, source_hash, stamp_path},
    verifier_cost, workspace,
};

const PACKAGE: &str = "azure-vnet-ebpf";
const BINARY: &str = "azure-vnet-bpf";
const PROFILE: &str = "ebpf";
const BUILD_LIMIT: Duration = Duration::from_mins(15);

/// Builds the object unless it is up to date, then shows what it costs the verifier.
pub fn main() -> Result<()> {
    let root = workspace::root();
    let linker = bpf_linker::ensure()?;
    let compiler = Compiler::choose()?;
    let toolchain = format!("{compiler}, bpf-linker {}", bpf_linker::VERSION);
    let sources = source_hash(root).context("cannot read the sources in ebpf/")?;

    let stamp = fs::read_to_string(stamp_path(root)).unwrap_or_default();
    let built_with = stamp.lines().nth(1);
    if built_from(root).as_ref() == Some(&sources) && built_with == Some(&toolchain) {
        println!("build-ebpf: up to date ({toolchain})");
    } else {
        println!("build-ebpf: {toolchain}");
        install(&compile(&compiler, &linker)?, &object_path(root))?;
        fs::write(stamp_path(root), format!("{sources}\n{toolchain}\n"))?;
    }
    show_verifier_cost(root)
}

/// Compiles and links the programs; returns where cargo left them.
fn compile(compiler: &Compiler, linker: &Path) -> Result<PathBuf> {
    // Of its own: another compiler and other flags would evict what user space has built.
    let target = workspace::root().join("target/ebpf-build");
    let mut build = compiler.build(PACKAGE, PROFILE, linker)?;
    run(build.arg("--target-dir").arg(&target), BUILD_LIMIT)?;
    Ok(target.join("bpfel-unknown-none").join(PROFILE).join(BINARY))
}

/// Puts the object in its place, leaving an equal one untouched: its time decides whether
/// `azure-vnet` is compiled again.
fn install(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("no object at {}", built.display()))?;
    let bytes = without_dwarf(&bytes)?;
    if fs::read(object).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = object.parent().context("the object's path has no folder")?;
    fs::create_dir_all(folder)?;
    let new = object.with_extension("new");
    fs::write(&new, bytes).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, object).with_context(|| format!("cannot write {}", object.display()))
}

/// Leaves out what only a debugger reads, three quarters of the object: what the kernel and the verifier's log know of types and lines
/// is in `.BTF` and `.BTF.ext`.
fn without_dwarf(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(bytes)?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    // LLVM has names of sections and of symbols in one table, this crate writes two.
    let names = elf.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

/// Loads the programs into this kernel and prints the instructions its verifier walked; the table
/// is kept in the stamp, so that it is made once per object.
fn show_verifier_cost(root: &Path) -> Result<()> {
    let path = stamp_path(root);
    let stamp = fs::read_to_string(&path)?;
    let cached: Vec<&str> = stamp.lines().skip(2).collect();
    if !cached.is_empty() {
        let table = cached.join("\n");
        println!("{table}");
        return verifier_cost::check(&table);
    }
    if !is_root() {
        println!("build-ebpf: run it as root to see the verified-instruction counts");
        return Ok(());
    }
    // No package is named, as in all of demo and test: what is compiled here serves there.
    let mut stats = cargo();
    stats
        .args(["run", "--quiet", "--bin", "ebpf-stats", "--"])
        .arg(object_path(root));
    let table = output(&mut stats, BUILD_LIMIT)?;
    print!("{table}");
    fs::write(path, stamp + &table)?;
    verifier_cost::check(&table)
}
