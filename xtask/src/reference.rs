//! `cargo xtask reference`: writes docs/configuration.md from the doc comments of the structs that read the
//! configuration; lint fails where it is not current.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::workspace;

const PATH: &str = "docs/configuration.md";

/// Where keys are read, and what the reader is told of them.
const SECTIONS: [Section; 5] = [
    Section {
        file: "azure-vnet/src/config/sent.rs",
        structure: "Sent",
        title: "The plugin's object",
    },
    Section {
        file: "azure-vnet/src/config/sent.rs",
        structure: "SentMasquerade",
        title: "`masquerade`",
    },
    Section {
        file: "azure-vnet/src/config/sent.rs",
        structure: "SentDns",
        title: "`dns`",
    },
    Section {
        file: "azure-vnet/src/config/sent.rs",
        structure: "SentRuntimeConfig",
        title: "`runtimeConfig`, from the runtime",
    },
    Section {
        file: "azure-vnet-ipam/src/config.rs",
        structure: "Ipam",
        title: "`ipam`, with type `azure-vnet-ipam`",
    },
];

const INTRODUCTION: &str = "\
# Configuration

<!-- Written by `cargo xtask reference` from the doc comments of the code that reads the keys. -->

`conf/10-azure.conflist` works unedited; every key but `type` and `ipam.type` is optional. Keys are understood in any case, and unknown ones
are left alone: they belong to other plugins.

Both plugins read `logLevel`, `trace`, `debug`, `info` (default), `warn`, `error` or `off`; `AZURE_VNET_LOG` in the environment of the
runtime goes before it, and takes filters as `RUST_LOG` does. `AZURE_VNET_LOG_DIR` names another directory than /var/log.

";

struct Section {
    file: &'static str,
    structure: &'static str,
    title: &'static str,
}

/// Writes the page.
pub fn main() -> Result<()> {
    fs::write(workspace::root().join(PATH), page()?).with_context(|| format!("cannot write {PATH}"))
}

/// Fails where the page is not what would be written.
pub fn check() -> Result<()> {
    let written = fs::read_to_string(workspace::root().join(PATH)).unwrap_or_default();
    ensure!(
        written == page()?,
        "{PATH} is not current: cargo xtask reference"
    );
    Ok(())
}

fn page() -> Result<String> {
    let mut page = INTRODUCTION.to_owned();
    for section in &SECTIONS {
        writeln!(page, "## {}\n\n| key | |\n|---|---|", section.title)?;
        for (key, meaning) in keys(section)? {
            writeln!(page, "| `{key}` | {meaning} |")?;
        }
        page.push('\n');
    }
    Ok(page.trim_end().to_owned() + "\n")
}

/// The fields of the section's struct with their doc comments. Read line by line, as rustfmt writes them: a parser of
/// the whole language would be the heaviest dependency of what has to be compiled before anything else.
fn keys(section: &Section) -> Result<Vec<(String, String)>> {
    let Section {
        file, structure, ..
    } = section;
    let text = fs::read_to_string(workspace::root().join(file))
        .with_context(|| format!("cannot read {file}"))?;
    let keys =
        fields(&text, structure).with_context(|| format!("{file} has no struct {structure}"))?;
    for (key, meaning) in &keys {
        ensure!(
            !meaning.is_empty(),
            "{file}: `{key}` of {structure} has no doc comment to tell operators"
        );
    }
    Ok(keys)
}

fn fields(text: &str, structure: &str) -> Option<Vec<(String, String)>> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line == format!("struct {structure} {{")
    })?;
    let mut keys = Vec::new();
    let (mut meaning, mut renamed) = (Vec::new(), None);
    for line in lines.take_while(|line| *line != "}") {
        if let Some(comment) = line.strip_prefix("///") {
            meaning.push(comment.trim());
        } else if let Some(attribute) = line.strip_prefix("#[") {
            renamed = renamed.or_else(|| quoted(attribute.split_once("rename = ")?.1));
        } else if let Some((name, _)) = line.split_once(": ") {
            let name = name.strip_prefix("pub ").unwrap_or(name);
            let key = renamed
                .take()
                .map_or_else(|| camel_case(name), str::to_owned);
            keys.push((key, meaning.join(" ").replace('|', "\\|")));
            meaning.clear();
        }
    }
    Some(keys)
}

fn quoted(text: &str) -> Option<&str> {
    text.split('"').nth(1)
}

/// What `rename_all = "camelCase"` makes of a field's name.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let head: String = letters
            .next()
            .into_iter()
            .flat_map(char::to_uppercase)
            .collect();
        name + &head + letters.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_serde_reads_them() {
        let text = "struct Other {\n    x: u8,\n}\n\npub struct Sent {\n    /// One,\n    /// two.\n    \
                    pub ip_address: Option<String>,\n    /// Three.\n    #[serde(rename = \"CIDRs\")]\n    \
                    pub cidrs: u8,\n    pub bare: u8,\n}\n";
        let keys = fields(text, "Sent").unwrap_or_default();
        let shown: Vec<(&str, &str)> = keys
            .iter()
            .map(|(key, doc)| (key.as_str(), doc.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("ipAddress", "One, two."),
                ("CIDRs", "Three."),
                ("bare", "")
            ]
        );
        assert_eq!(fields(text, "Missing"), None);
    }
}
