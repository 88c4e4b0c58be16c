//! `cargo xtask reference`: writes docs/configuration.md and docs/json.md from the doc comments of the structs that read
//! the configuration and print JSON, and the index of the decisions; lint fails where they are not current.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{decisions, workspace};

/// A page that is written from code.
struct Page {
    path: &'static str,
    introduction: &'static str,
    sections: &'static [Section],
    /// How a field's name is written in JSON.
    case: fn(&str) -> String,
}

const PAGES: [Page; 2] = [
    Page {
        path: "docs/configuration.md",
        introduction: CONFIGURATION,
        sections: &KEYS,
        case: camel_case,
    },
    Page {
        path: "docs/json.md",
        introduction: OUTPUT,
        sections: &FIELDS,
        case: str::to_owned,
    },
];

/// What `--json` prints.
const FIELDS: [Section; 21] = [
    field_section("azure-vnet/src/cli/status.rs", "Status", "`status`"),
    field_section(
        "azure-vnet/src/cli/bridges.rs",
        "Bridge",
        "`status`: `bridges`, each",
    ),
    field_section(
        "azure-vnet/src/cli/bridges.rs",
        "Programs",
        "`status`: `programs` of a bridge",
    ),
    field_section(
        "azure-vnet/src/cli/bridges.rs",
        "Counter",
        "`status`: `counters` of a bridge, each",
    ),
    field_section(
        "azure-vnet-ipam/src/pool/report.rs",
        "Report",
        "`status`: `pool`",
    ),
    field_section(
        "azure-vnet-ipam/src/pool/report.rs",
        "SubnetReport",
        "`status`: `subnets` of the pool, each",
    ),
    field_section(
        "azure-vnet-ipam/src/pool/report.rs",
        "LeaseReport",
        "`status`: `leases` of the pool, each",
    ),
    field_section("azure-vnet/src/cli/pods.rs", "Pod", "`pods`: `pods`, each"),
    field_section(
        "azure-vnet/src/cli/flows.rs",
        "Flow",
        "`flows`: `flows`, each",
    ),
    field_section(
        "azure-vnet/src/cli/flows/show.rs",
        "Destination",
        "`flows --top`: `destinations`, each",
    ),
    field_section("azure-vnet/src/cli/top/page.rs", "Page", "`top`"),
    field_section(
        "azure-vnet/src/cli/top/page.rs",
        "Network",
        "`top`: `bridges`, each",
    ),
    field_section(
        "azure-vnet/src/cli/top/page.rs",
        "Addresses",
        "`top`: `pool`, each",
    ),
    field_section(
        "azure-vnet/src/cli/top/page.rs",
        "Pod",
        "`top`: `pods`, each",
    ),
    field_section(
        "azure-vnet/src/cli/top/page.rs",
        "Drops",
        "`top`: `drops`, each",
    ),
    field_section(
        "azure-vnet/src/cli/top/page.rs",
        "Destination",
        "`top`: `destinations`, each",
    ),
    field_section("azure-vnet/src/cli/explain.rs", "Explanation", "`explain`"),
    field_section(
        "azure-vnet/src/cli/monitor/line.rs",
        "Told",
        "`monitor`, each line",
    ),
    field_section(
        "azure-vnet/src/health/finding.rs",
        "Finding",
        "`doctor`: `findings`, each",
    ),
    field_section("azure-vnet/src/cli/gc.rs", "Collected", "`gc`"),
    field_section("azure-vnet/src/cli/teardown.rs", "TakenDown", "`teardown`"),
];

const fn field_section(
    file: &'static str,
    structure: &'static str,
    title: &'static str,
) -> Section {
    Section {
        file,
        structure,
        title,
    }
}

const OUTPUT: &str = "\
# What `--json` prints

<!-- Written by `cargo xtask reference` from the doc comments of the code that prints it. -->

Names stay; new ones may come. Addresses are strings, `null` stands for what is not there or not known. `tests/golden/cli` has an example of
each document.

";

/// Where keys are read, and what the reader is told of them.
const KEYS: [Section; 5] = [
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

const CONFIGURATION: &str = "\
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

/// Writes the pages.
pub fn main() -> Result<()> {
    for page in &PAGES {
        fs::write(workspace::root().join(page.path), text(page)?)
            .with_context(|| format!("cannot write {}", page.path))?;
    }
    let index = workspace::root().join(decisions::INDEX);
    fs::write(&index, decisions::index()?)
        .with_context(|| format!("cannot write {}", index.display()))
}

/// Fails where a page is not what would be written.
pub fn check() -> Result<()> {
    for page in &PAGES {
        let written = fs::read_to_string(workspace::root().join(page.path)).unwrap_or_default();
        ensure!(
            written == text(page)?,
            "{} is not current: cargo xtask reference",
            page.path
        );
    }
    let index = fs::read_to_string(workspace::root().join(decisions::INDEX)).unwrap_or_default();
    ensure!(
        index == decisions::index()?,
        "{} is not current: cargo xtask reference",
        decisions::INDEX
    );
    Ok(())
}

/// The keys of `masquerade`.
pub fn masquerade_keys() -> Result<Vec<String>> {
    let section = KEYS.iter().find(|it| it.structure == "SentMasquerade");
    let section = section.context("no section has the keys of masquerade")?;
    let keys = keys(section, camel_case)?.into_iter();
    Ok(keys.map(|(key, _)| key).collect())
}

fn text(page: &Page) -> Result<String> {
    let mut text = page.introduction.to_owned();
    for section in page.sections {
        writeln!(text, "## {}\n\n| key | |\n|---|---|", section.title)?;
        for (key, meaning) in keys(section, page.case)? {
            writeln!(text, "| `{key}` | {meaning} |")?;
        }
        text.push('\n');
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// The fields of the section's struct with their doc comments. Read line by line, as rustfmt writes them: a parser of
/// the whole language would be the heaviest dependency of what has to be compiled before anything else.
fn keys(section: &Section, case: fn(&str) -> String) -> Result<Vec<(String, String)>> {
    let Section {
        file, structure, ..
    } = section;
    let text = fs::read_to_string(workspace::root().join(file))
        .with_context(|| format!("cannot read {file}"))?;
    let keys = fields(&text, structure, case)
        .with_context(|| format!("{file} has no struct {structure}"))?;
    for (key, meaning) in &keys {
        ensure!(
            !meaning.is_empty(),
            "{file}: `{key}` of {structure} has no doc comment to tell operators"
        );
    }
    Ok(keys)
}

fn fields(text: &str, structure: &str, case: fn(&str) -> String) -> Option<Vec<(String, String)>> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line == format!("struct {structure} {{")
    })?;
    let mut keys = Vec::new();
    let (mut meaning, mut renamed, mut skipped) = (Vec::new(), None, false);
    for line in lines.take_while(|line| *line != "}") {
        if let Some(comment) = line.strip_prefix("///") {
            meaning.push(comment.trim());
        } else if let Some(attribute) = line.strip_prefix("#[") {
            renamed = renamed.or_else(|| quoted(attribute.split_once("rename = ")?.1));
            skipped |= attribute.starts_with("serde(skip)");
        } else if let Some((name, _)) = line.split_once(": ") {
            let name = name.strip_prefix("pub ").unwrap_or(name);
            let key = renamed.take().map_or_else(|| case(name), str::to_owned);
            if !skipped {
                keys.push((key, meaning.join(" ").replace('|', "\\|")));
            }
            meaning.clear();
            skipped = false;
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
        let keys = fields(text, "Sent", camel_case).unwrap_or_default();
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
        assert_eq!(fields(text, "Missing", camel_case), None);
    }
}
