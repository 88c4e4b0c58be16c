//! Hands the path of the eBPF object to the sources as `AZURE_VNET_BPF_OBJECT`, for `include_bytes!`,
//! and its name as `AZURE_VNET_BPF_BUILD`.
//!
//! It builds nothing: a BPF toolchain is not to be had everywhere, and `cargo xtask build-ebpf` can
//! say so much better than a build script.

use std::{env, path::Path};

#[path = "../xtask/src/ebpf_object.rs"]
mod ebpf_object;

fn main() {
    let package = env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".to_owned());
    let root = Path::new(&package).parent().unwrap_or(Path::new(".."));
    let object = ebpf_object::object_path(root);
    for input in ebpf_object::inputs(root) {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    println!("cargo::rerun-if-changed={}", object.display());

    match (
        ebpf_object::built_from(root),
        ebpf_object::source_hash(root),
    ) {
        (Some(built), Ok(sources)) if built == sources => {
            println!(
                "cargo::rustc-env=AZURE_VNET_BPF_OBJECT={}",
                object.display()
            );
            println!("cargo::rustc-env=AZURE_VNET_BPF_BUILD={built}");
        }
        (Some(_), Ok(_)) => println!(
            "cargo::error=the eBPF object is older than its sources in ebpf/: \
             run `cargo xtask build-ebpf`"
        ),
        (None, Ok(_)) => println!(
            "cargo::error=the eBPF object is missing: run `cargo xtask build-ebpf` \
             (on a new machine `cargo xtask setup` first)"
        ),
        (_, Err(error)) => println!(
            "cargo::error=cannot read the eBPF sources in {}: {error}",
            root.join("ebpf").display()
        ),
    }
}
