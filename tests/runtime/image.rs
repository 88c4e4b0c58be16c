//! Container images made here, so that nothing is pulled: Debian's static busybox, with a link for each of its programs, as the
//! one layer of an OCI image (image-spec 1.0, `image-layout.md`).

use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::node::Node;

/// The image that containers are started from.
pub const BUSYBOX: &str = "localhost/busybox:1";
/// The image of a pod's first container, which does nothing.
pub const PAUSE: &str = "localhost/pause:1";
/// Serves [`PAGE`] on port 80.
pub const SERVE: [&str; 6] = ["/bin/httpd", "-f", "-p", "80", "-h", "/www"];
/// What is served.
pub const PAGE: &str = "served by a pod\n";
const FOLDER: &str = "/run/image";
const ROOTFS: &str = "/run/image/rootfs";

/// Makes the root file system on the node, unless it is there, and returns the path of a tar archive of it.
pub fn layer(node: &Node<'_>) -> String {
    let layer = format!("{FOLDER}/layer.tar");
    if node.program("test").args(["-e", &layer]).checked().is_ok() {
        return layer;
    }
    let bin = format!("{ROOTFS}/bin");
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "www"] {
        node.run("mkdir", &["-p", &format!("{ROOTFS}/{folder}")]);
    }
    node.run("cp", &["/usr/bin/busybox", &bin]);
    let programs = node.run("busybox", &["--list"]);
    let link = |name: &str| symlink("busybox", format!("{bin}/{name}"));
    let link_all = || {
        programs
            .lines()
            .filter(|&name| name != "busybox")
            .try_for_each(link)
    };
    node.vm.namespace().run(link_all).unwrap().unwrap();
    node.vm
        .write_file(&format!("{ROOTFS}/www/index.html"), PAGE)
        .unwrap();
    node.run("tar", &["-C", ROOTFS, "-cf", &layer, "."]);
    layer
}

/// Makes an image of that layer with this name and default command; returns the path of its archive.
pub fn archive(node: &Node<'_>, layer: &str, name: &str, command: &[&str]) -> String {
    let layout = format!("{FOLDER}/{}", name.replace(['/', ':'], "-"));
    let bytes = node
        .vm
        .namespace()
        .run(|| std::fs::read(layer).unwrap())
        .unwrap();
    let (layer_digest, layer_size) = (digest(&bytes), bytes.len());
    let blobs = format!("{layout}/blobs/sha256");
    node.run("mkdir", &["-p", &blobs]);
    node.run("ln", &[layer, &format!("{blobs}/{layer_digest}")]);

    let config = Blob::write(
        node,
        &blobs,
        &json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Cmd": command, "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        }),
    );
    let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{layer_digest}"), "size": layer_size });
    let manifest = Blob::write(
        node,
        &blobs,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer],
        }),
    );
    let mut manifest = manifest.descriptor(MANIFEST);
    // The second is what containerd takes for the name; podman takes the first.
    manifest["annotations"] =
        json!({ "org.opencontainers.image.ref.name": name, "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    let write = |file: &str, text: &Value| {
        node.vm
            .write_file(&format!("{layout}/{file}"), &text.to_string())
            .unwrap();
    };
    write("index.json", &index);
    write("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }));
    let archive = format!("{layout}.tar");
    node.run("tar", &["-C", &layout, "-cf", &archive, "."]);
    archive
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A document of the image, filed by its digest.
struct Blob {
    digest: String,
    size: usize,
}

impl Blob {
    fn write(node: &Node<'_>, blobs: &str, document: &Value) -> Self {
        let text = document.to_string();
        let blob = Self {
            digest: digest(text.as_bytes()),
            size: text.len(),
        };
        node.vm
            .write_file(&format!("{blobs}/{}", blob.digest), &text)
            .unwrap();
        blob
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.size })
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The name that Go, and with it the image specification, has for this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
