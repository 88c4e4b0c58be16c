//! Signatures of what is released, in minisign's format (Ed25519 over BLAKE2b): who made an archive, which its checksum cannot say,
//! as that comes from where the archive comes from.

use std::path::{Path, PathBuf};

use azure_vnet_cni::foreign;
use azure_vnet_files::{ReadError, read, read_text};
use minisign_verify::{PublicKey, Signature};

/// Bytes of an archive; one has some 10 MB.
const LARGEST: u64 = 256 << 20;
/// Bytes of a key or a signature; they have some hundred.
const LARGEST_TEXT: u64 = 4096;

/// Why a file is not believed to be what its maker has signed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its meaning")]
pub enum Error {
    #[error("cannot read the {what} {}", path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: ReadError,
    },
    #[error("{} is no {what} of minisign's: {cause}", path.display())]
    Form {
        what: &'static str,
        path: PathBuf,
        cause: minisign_verify::Error,
    },
    #[error(
        "{} is not what the owner of the key {} has signed: {cause}; do not install it",
        path.display(), key.display()
    )]
    Wrong {
        path: PathBuf,
        key: PathBuf,
        cause: minisign_verify::Error,
    },
    #[error("{} is signed as {signed:?}: another file under its name; do not install it", path.display())]
    OtherFile { path: PathBuf, signed: String },
}

/// Where the signature of a file is: beside it.
pub fn beside(file: &Path) -> PathBuf {
    file.with_added_extension("minisig")
}

/// Whether `file` is what the owner of the public key has signed under this name. Returns what else he has signed with it: the
/// trusted comment.
///
/// # Errors
/// It is not, or key, signature or file cannot be read.
pub fn verify(key: &Path, file: &Path) -> Result<String, Error> {
    let public = text("public key", key)?;
    let public = PublicKey::decode(&public).map_err(form("public key", key))?;
    let at = beside(file);
    let signature = text("signature", &at)?;
    let signature = Signature::decode(&signature).map_err(form("signature", &at))?;
    let bytes = read(file, LARGEST).map_err(unread("file", file))?;
    public
        .verify(&bytes, &signature, false)
        .map_err(|cause| Error::Wrong {
            path: file.to_owned(),
            key: key.to_owned(),
            cause,
        })?;
    let comment = foreign::line(signature.trusted_comment()).into_owned();
    // As minisign writes it. Without it an archive of another version could be given for this one.
    let name = comment
        .split(r"\t")
        .find_map(|part| part.strip_prefix("file:"));
    match (name, file.file_name().and_then(|name| name.to_str())) {
        (Some(signed), Some(name)) if signed == name => Ok(comment),
        (signed, _) => Err(Error::OtherFile {
            path: file.to_owned(),
            signed: signed.unwrap_or_default().to_owned(),
        }),
    }
}

/// Whether a text is a public key or a signature, whoever's.
pub fn is_well_formed(text: &str) -> bool {
    PublicKey::decode(text).is_ok()
        || Signature::decode(text).is_ok_and(|it| it.trusted_comment().len() < text.len())
}

fn text(what: &'static str, path: &Path) -> Result<String, Error> {
    read_text(path, LARGEST_TEXT).map_err(unread(what, path))
}

fn unread(what: &'static str, path: &Path) -> impl FnOnce(ReadError) -> Error {
    let path = path.to_owned();
    move |cause| Error::Read { what, path, cause }
}

fn form(what: &'static str, path: &Path) -> impl FnOnce(minisign_verify::Error) -> Error {
    let path = path.to_owned();
    move |cause| Error::Form { what, path, cause }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::fs;

    use minisign::KeyPair;
    use tempfile::TempDir;

    use super::*;

    struct Release {
        folder: TempDir,
        keys: KeyPair,
    }

    impl Release {
        fn new() -> Self {
            let this = Self {
                folder: TempDir::new().unwrap(),
                keys: KeyPair::generate_unencrypted_keypair().unwrap(),
            };
            let public = this.keys.pk.to_box().unwrap().into_string();
            fs::write(this.at("release.pub"), public).unwrap();
            fs::write(this.at("v2.tgz"), "archive").unwrap();
            this.sign("v2.tgz", "timestamp:0\tfile:v2.tgz\thashed");
            this
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn sign(&self, name: &str, comment: &str) {
            let bytes = fs::read(self.at(name)).unwrap();
            let signature = minisign::sign(None, &self.keys.sk, &bytes[..], Some(comment), None);
            fs::write(beside(&self.at(name)), signature.unwrap().into_string()).unwrap();
        }

        fn verify(&self, name: &str) -> Result<String, Error> {
            verify(&self.at("release.pub"), &self.at(name))
        }
    }

    #[test]
    fn what_the_owner_has_signed_is_believed() {
        let release = Release::new();
        let comment = release.verify("v2.tgz").unwrap();
        assert_eq!(comment, r"timestamp:0\tfile:v2.tgz\thashed");
    }

    #[test]
    fn anything_else_is_not() {
        let release = Release::new();
        fs::write(release.at("v2.tgz"), "archivf").unwrap();
        assert!(matches!(release.verify("v2.tgz"), Err(Error::Wrong { .. })));

        let release = Release::new();
        let other = Release::new();
        fs::copy(other.at("release.pub"), release.at("release.pub")).unwrap();
        assert!(matches!(release.verify("v2.tgz"), Err(Error::Wrong { .. })));

        // An earlier version, with its signature, under the name of this one.
        let release = Release::new();
        release.sign("v2.tgz", "timestamp:0\tfile:v1.tgz\thashed");
        assert!(
            matches!(release.verify("v2.tgz"), Err(Error::OtherFile { signed, .. }) if signed == "v1.tgz")
        );
        release.sign("v2.tgz", "timestamp:0");
        assert!(matches!(
            release.verify("v2.tgz"),
            Err(Error::OtherFile { .. })
        ));
        // The comment is signed too.
        let at = beside(&release.at("v2.tgz"));
        let text = fs::read_to_string(&at).unwrap();
        fs::write(&at, text.replace("timestamp:0", "timestamp:0\tfile:v2.tgz")).unwrap();
        assert!(matches!(release.verify("v2.tgz"), Err(Error::Wrong { .. })));
    }

    #[test]
    fn without_key_signature_or_file_nothing_is_believed() {
        for missing in ["release.pub", "v2.tgz.minisig", "v2.tgz"] {
            let release = Release::new();
            fs::remove_file(release.at(missing)).unwrap();
            let error = release.verify("v2.tgz").unwrap_err();
            assert!(
                matches!(error, Error::Read { .. }) && error.to_string().ends_with(missing),
                "{error}"
            );
        }
        for damaged in ["release.pub", "v2.tgz.minisig"] {
            for text in [
                "",
                "\n\n\n\n",
                "untrusted comment: x\nAAAA\ntrusted comment: y\nAAAA\n",
            ] {
                let release = Release::new();
                fs::write(release.at(damaged), text).unwrap();
                assert!(
                    matches!(release.verify("v2.tgz"), Err(Error::Form { .. })),
                    "{damaged} {text}"
                );
            }
        }
    }
}
