//! What lint asks of the pages: every link leads somewhere, every file and decision that is named is there, and the tables of
//! keys that are written by hand have every key.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::{reference, workspace};

/// Endings of files of ours that pages name. What ends otherwise is as often a file on a node.
const ENDINGS: [&str; 7] = [".md", ".rs", ".sh", ".ps1", ".toml", ".yaml", ".conflist"];
/// What is made, or is git's own.
const NOT_OURS: [&str; 2] = ["target", ".git"];

/// Fails with all that is wrong.
pub fn check() -> Result<()> {
    let root = workspace::root();
    let mut files = BTreeSet::new();
    list(root, root, &mut files)?;
    let mut wrong = Vec::new();
    for path in &files {
        let ending = Path::new(path).extension().unwrap_or_default();
        let is_page = ending == "md";
        if !is_page && ending != "rs" {
            continue;
        }
        let text =
            fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {path}"))?;
        let mut say = |what: String| wrong.push(format!("{path}: {what}"));
        decisions(&text)
            .filter(|number| !has_decision(&files, *number))
            .for_each(|number| {
                say(format!("there is no decision {number}"));
            });
        if is_page {
            let prose = without_code(&text);
            for target in links(&prose) {
                if let Some(problem) = dead(root, path, target) {
                    say(problem);
                }
            }
            for name in names(&prose).filter(|name| !is_named_rightly(&files, name)) {
                say(format!("there is no file {name}"));
            }
        }
    }
    wrong.extend(keys_without_row(root)?);
    ensure!(
        wrong.is_empty(),
        "the pages are not right:\n{}",
        wrong.join("\n")
    );
    Ok(())
}

/// Every file below `folder`, relative to the root.
fn list(root: &Path, folder: &Path, files: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let is_ours = NOT_OURS.iter().all(|name| entry.file_name() != *name);
        if entry.file_type()?.is_dir() {
            if is_ours {
                list(root, &path, files)?;
            }
        } else if let Ok(relative) = path.strip_prefix(root) {
            files.insert(relative.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// A page without its blocks of code.
fn without_code(text: &str) -> String {
    let mut parts = text.split("```");
    let prose = std::iter::from_fn(|| {
        let prose = parts.next()?;
        parts.next();
        Some(prose)
    });
    prose.collect()
}

/// Targets of `[…](…)`.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    let behind = prose.split("](").skip(1);
    let targets = behind.filter_map(|text| text.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://"))
}

/// Why a link of `page` leads nowhere.
fn dead(root: &Path, page: &str, target: &str) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match file {
        "" => PathBuf::from(page),
        file => normal(&Path::new(page).parent()?.join(file)),
    };
    let path = root.join(&file);
    if !path.exists() {
        return Some(format!("the link {target} leads nowhere"));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let prose = without_code(&text);
    let mut headings = prose.lines().filter(|line| line.starts_with('#'));
    let found = headings.any(|line| anchor_of(line) == anchor);
    (!found).then(|| format!("{target}: {} has no such heading", file.display()))
}

/// `a/../b` is `b`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            normal.pop();
        } else {
            normal.push(part);
        }
    }
    normal
}

/// As GitHub makes it of a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// File names between single backticks.
fn names(prose: &str) -> impl Iterator<Item = &str> {
    let quoted = prose
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    quoted.filter(|name| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        ENDINGS.iter().any(|ending| name.ends_with(ending)) && name.chars().all(is_plain)
    })
}

/// Whole, or the end of a path; a path on a node and what a build makes are not asked for.
fn is_named_rightly(files: &BTreeSet<String>, name: &str) -> bool {
    let name = name.strip_prefix("./").unwrap_or(name);
    name.starts_with('/')
        || name.starts_with("target/")
        || files.iter().any(|file| {
            file.strip_suffix(name)
                .is_some_and(|front| front.is_empty() || front.ends_with('/'))
        })
}

/// The numbers of decisions that a text names.
fn decisions(text: &str) -> impl Iterator<Item = u32> {
    let behind = text.split("ecision ").skip(1);
    behind.filter_map(|text| {
        let digits = text.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

fn has_decision(files: &BTreeSet<String>, number: u32) -> bool {
    let start = format!("docs/decisions/{number:04}-");
    files.iter().any(|file| file.starts_with(&start))
}

/// Keys of `masquerade` that a table lacks: those of README and of their own page are written by hand, with examples.
fn keys_without_row(root: &Path) -> Result<Vec<String>> {
    let keys = reference::masquerade_keys()?;
    let mut missing = Vec::new();
    for (page, prefix) in [("README.md", "masquerade."), ("docs/masquerade.md", "")] {
        let text =
            fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {page}"))?;
        let lacks = |key: &&String| !text.contains(&format!("\n| `{prefix}{key}` |"));
        let lacking = keys.iter().filter(lacks);
        missing.extend(lacking.map(|key| format!("{page}: its table lacks `{prefix}{key}`")));
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_its_readers_see_it() {
        let page = "# Head `x`, and so on\n[a](docs/a.md) [b](https://b) [c](#head)\n```\n[d](e)\n```\n`f/g.rs` `h` `/i.md`\n";
        let prose = without_code(page);
        assert_eq!(links(&prose).collect::<Vec<_>>(), ["docs/a.md", "#head"]);
        assert_eq!(names(&prose).collect::<Vec<_>>(), ["f/g.rs", "/i.md"]);
        assert_eq!(anchor_of("# Head `x`, and so on"), "head-x-and-so-on");
        assert_eq!(
            normal(Path::new("docs/decisions/../a.md")),
            Path::new("docs/a.md")
        );
        let said: Vec<u32> =
            decisions("Decision 7, (decision 12) and a decision of ours").collect();
        assert_eq!(said, [7, 12]);
    }

    #[test]
    fn what_is_named_is_the_end_of_a_path() {
        let files = BTreeSet::from(["ebpf/src/fast.rs".to_owned()]);
        for (name, is_there) in [
            ("fast.rs", true),
            ("src/fast.rs", true),
            ("ast.rs", false),
            ("slow.rs", false),
            ("/etc/x.md", true),
            ("target/x.md", true),
        ] {
            assert_eq!(is_named_rightly(&files, name), is_there, "{name}");
        }
    }
}
