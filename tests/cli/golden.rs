//! Comparing with what was printed before.

use std::path::PathBuf;
use std::sync::LazyLock;

use regex::Regex;

/// Write the files instead of comparing with them.
const UPDATE: &str = "UPDATE_GOLDEN";

/// Patterns of what differs from run to run, and what stands for it. Columns keep their widths.
static VOLATILE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"azv[0-9a-f]{11}", "azvXXXXXXXXXXX"),
        (r"\b[0-9a-f]{64}\b", "<container>"),
        (r"/run/netns/cni-[0-9a-f]{16}", "<netns>"),
        (r"/var/run/netns/cni-[0-9a-f]{16}", "<netns>"),
        (r"build [0-9a-f]{12}", "build XXXXXXXXXXXX"),
        (r#""build": "[0-9a-f]+""#, r#""build": "<build>""#),
        (r"/azure-vnet/v\d+/", "/azure-vnet/v<abi>/"),
        (r"\(ABI \d+\)", "(ABI <abi>)"),
        (r#"abi="\d+""#, r#"abi="<abi>""#),
        (r#""abi": "?\d+"?"#, r#""abi": "<abi>""#),
        (r"\bv\d+\.\d+\.\d+\b", "v<version>"),
        (r#"version="[^"]+""#, r#"version="<version>""#),
        (r#""version": "[^"]+""#, r#""version": "<version>""#),
        (r#""fetched_at": \d+"#, r#""fetched_at": "<time>""#),
        (r"timestamp_seconds \d+", "timestamp_seconds <time>"),
        (
            r#""(idle|expires)_seconds": \d+"#,
            r#""${1}_seconds": "<seconds>""#,
        ),
        (r"(?m) +\d+s$", "  <n>s"),
    ]
    .map(|(pattern, stand_in)| (Regex::new(pattern).unwrap(), stand_in))
    .into()
});

/// Compares `text` with the file of this name, or writes it.
#[track_caller]
pub fn assert_golden(name: &str, text: &str) {
    let text = normalised(text);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("golden/cli")
        .join(name);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; {UPDATE}=1 writes it", path.display()));
    assert!(
        text == expected,
        "{} is not what was printed ({UPDATE}=1 writes it anew)\n--- expected\n{expected}--- printed\n{text}---",
        path.display()
    );
}

/// Human output fits a terminal that nobody has made wider.
#[track_caller]
pub fn assert_fits(text: &str) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= 80,
            "{} columns: {line}",
            line.chars().count()
        );
    }
}

fn normalised(text: &str) -> String {
    VOLATILE
        .iter()
        .fold(text.to_owned(), |text, (pattern, stand_in)| {
            pattern.replace_all(&text, *stand_in).into_owned()
        })
}
