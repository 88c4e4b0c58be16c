//! `cargo xtask dist`: what is released, an archive with the static plugins, its checksum, and its signature where the key is given.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use minisign::{SecretKey, SecretKeyBox};

use crate::{
    architecture::Architecture,
    build_ebpf,
    command::{cargo, command, output, run},
    plugins::{self, NAMES},
    setup, size,
    static_target::StaticTarget,
    workspace::{self, Metadata},
};

const BUILD_LIMIT: Duration = Duration::from_mins(30);
const LIMIT: Duration = Duration::from_mins(2);
/// Names the password of a secret key that has one.
const PASSWORD: &str = "AZURE_VNET_SIGNING_PASSWORD";
/// What an archive has beside the plugins.
const FILES: [&str; 5] = [
    "conf/10-azure.conflist",
    "scripts/install-cni-plugin.sh",
    "scripts/docker-run.sh",
    "scripts/docker-del.sh",
    "LICENSE",
];

/// For whom, and what to do with the archives.
#[derive(Args, Default)]
pub struct Options {
    /// The processors that archives are made for; this machine's, if none is named. Those of others are run under user emulation
    #[arg(long = "arch", value_enum, value_name = "ARCH")]
    architectures: Vec<Architecture>,
    /// Signs it with this secret key of minisign's; a key with a password has it in `AZURE_VNET_SIGNING_PASSWORD`
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Builds the plugins, looks at them, and packs them.
pub fn main(options: &Options) -> Result<()> {
    let key = options.key.as_deref().map(secret_key).transpose()?;
    setup::main()?;
    build_ebpf::main()?;
    let architectures = match &options.architectures[..] {
        [] => vec![Architecture::here()?],
        named => named.to_vec(),
    };
    for architecture in architectures {
        let folder = build(architecture)?;
        check_static(architecture, &folder.join(NAMES[0]))?;
        size::check(&folder)?;
        let version = format!("v{}", env!("CARGO_PKG_VERSION"));
        let dist = workspace::root().join("target/dist");
        let archive = pack(architecture, &folder, &version, &dist)?;
        if let Some(key) = &key {
            sign(&archive, key)?;
        }
        let size = fs::metadata(&archive)?.len();
        println!("dist: {} ({} KiB)", archive.display(), size / 1024);
    }
    Ok(())
}

/// Builds the plugins without anything that they would have to find on a node; returns where they are.
pub fn build(architecture: Architecture) -> Result<PathBuf> {
    let target = StaticTarget::ensure(architecture)?;
    let mut compile = cargo();
    compile
        .args(["build", "--release", "--bins", "--target", &target.triple])
        .args(["--package", NAMES[0]])
        .args(target.arguments);
    run(&mut compile, BUILD_LIMIT)?;
    let built = Metadata::read()?.target_directory()?;
    let folder = built.join(target.triple).join("release");
    plugins::link(&folder)?;
    Ok(folder)
}

/// The archive of the plugins in `built`, under the name that `install-cni-plugin.sh` looks for, with its checksum beside it.
pub fn pack(
    architecture: Architecture,
    built: &Path,
    version: &str,
    folder: &Path,
) -> Result<PathBuf> {
    let staging = folder.join("staging");
    let _ = fs::remove_dir_all(&staging);
    fs::create_dir_all(&staging)?;
    let root = workspace::root();
    for file in [built.join(NAMES[0])]
        .into_iter()
        .chain(FILES.map(|file| root.join(file)))
    {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(&file, staging.join(name)).with_context(|| format!("no {}", file.display()))?;
    }
    // One file in the archive too: tar keeps what is linked together.
    plugins::link(&staging)?;
    // Shell completions and man pages, from the program itself.
    let mut generate = architecture.run(&built.join(NAMES[0]))?;
    run(generate.arg("generate").arg(staging.join("share")), LIMIT)?;
    let name = format!("azure-vnet-cni-linux-{}-{version}.tgz", architecture.name());
    let archive = folder.join(&name);
    // The same input gives the same bytes.
    let reproducible = [
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ];
    let mut tar = command("tar");
    tar.args(["--create", "--use-compress-program=gzip -n"])
        .args(reproducible)
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(&staging)
        .args(entries(&staging)?);
    run(&mut tar, LIMIT)?;
    fs::remove_dir_all(&staging)?;
    let sum = output(command("sha256sum").arg(&name).current_dir(folder), LIMIT)?;
    fs::write(folder.join(format!("{name}.sha256")), sum)?;
    Ok(archive)
}

/// Reads a secret key.
fn secret_key(path: &Path) -> Result<SecretKey> {
    let text = fs::read_to_string(path).with_context(|| format!("no {}", path.display()))?;
    let key = SecretKeyBox::from_string(&text)?;
    Ok(match std::env::var(PASSWORD) {
        Ok(password) => key.into_secret_key(Some(password))?,
        Err(_) => key.into_unencrypted_secret_key()?,
    })
}

/// Puts a signature beside an archive, with the archive's name in what is signed: one version cannot be given for another.
pub fn sign(archive: &Path, key: &SecretKey) -> Result<()> {
    let name = archive
        .file_name()
        .context("an archive has a name")?
        .display();
    let comment = format!("file:{name}\thashed");
    let signature = minisign::sign(None, key, fs::File::open(archive)?, Some(&comment), None)?;
    fs::write(
        archive.with_added_extension("minisig"),
        signature.into_string(),
    )?;
    Ok(())
}

/// What is in a folder, by name. Not the folder itself: whoever unpacks that as root gives the folder that he is in, `/tmp` for example,
/// its owner and mode.
fn entries(folder: &Path) -> Result<Vec<OsString>> {
    let mut names = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// A node may have another libc, or an older one.
fn check_static(architecture: Architecture, program: &Path) -> Result<()> {
    let bytes = fs::read(program)?;
    // ELF: a program that names a dynamic linker has a header of type PT_INTERP, with the linker's path in it.
    let names = |linker: &[u8]| bytes.windows(linker.len()).any(|window| window == linker);
    let dynamic = names(b"/ld-linux") || names(b"/ld-musl");
    ensure!(!dynamic, "{} needs shared libraries", program.display());
    run(architecture.run(program)?.arg("--version"), LIMIT)?;
    Ok(())
}
