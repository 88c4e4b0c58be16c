//! The modules that the plugins and the simulated Azure need, with those that they depend on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use azure_vnet_testbed::process::Program;

/// What is wanted. Some are part of the kernel itself, in one version or the other.
const WANTED: [&str; 35] = [
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "cls_bpf",
    "sch_ingress",
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_bridge",
    "nft_chain_nat",
    "tcp_diag",
    "udp_diag",
    "nft_compat",
    "nft_counter",
    "nft_ct",
    "nft_fib_ipv4",
    "nft_limit",
    "nft_masq",
    "nft_meta_bridge",
    "nft_nat",
    "nft_objref",
    "nft_redir",
    "nft_reject",
    "nft_reject_bridge",
    "nft_reject_ipv4",
    "xt_MASQUERADE",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_multiport",
    "xt_nat",
    "xt_tcpudp",
    "iptable_filter",
    "iptable_nat",
];

/// Module files by the modules' names.
struct Modules(BTreeMap<String, PathBuf>);

/// The wanted modules as name and content, each behind those that it depends on.
pub fn in_order(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut modules = Modules(BTreeMap::new());
    modules.find(&folder.join("kernel"));
    let mut loaded = Vec::new();
    for name in WANTED {
        modules.load(name, &mut loaded);
    }
    loaded
}

impl Modules {
    fn find(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.find(&path);
            } else if let Some((name, _)) = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.split_once(".ko"))
            {
                self.0.insert(name.replace('-', "_"), path);
            }
        }
    }

    fn load(&self, name: &str, loaded: &mut Vec<(String, Vec<u8>)>) {
        let Some(path) = self.0.get(name) else {
            return; // part of the kernel
        };
        if loaded.iter().any(|(known, _)| known == name) {
            return;
        }
        let module = read(path);
        for dependency in dependencies(&module) {
            self.load(&dependency, loaded);
        }
        loaded.push((name.to_owned(), module));
    }
}

fn read(path: &Path) -> Vec<u8> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let plain = path.with_extension("");
        if !plain.exists() {
            let unpack = Program::new("xz").args(["--decompress", "--keep"]);
            unpack.arg(path).checked().unwrap();
        }
        return fs::read(plain).unwrap();
    }
    fs::read(path).unwrap()
}

/// The modules that a module's `.modinfo` section names, which is text between zero bytes.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next();
    let names = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}
