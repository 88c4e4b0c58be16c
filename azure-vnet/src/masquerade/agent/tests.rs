#![allow(
    clippy::unwrap_used,
    clippy::format_collect,
    reason = "a test fails by panicking, and may be slow"
)]

use std::fs;

use azure_vnet_files::ReadError;

use super::*;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn settings(ranges: &[&str], link_local: bool) -> Settings {
    let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    Settings { ranges, link_local }
}

fn merged(files: &[(&str, &str)]) -> Settings {
    read(directory(files).path()).unwrap().unwrap()
}

fn refused(files: &[(&str, &str)]) -> String {
    read(directory(files).path()).unwrap_err().to_string()
}

#[test]
fn without_files_there_are_no_settings() {
    assert_eq!(read(Path::new("/nonexistent/config")).unwrap(), None);
    assert_eq!(read(directory(&[]).path()).unwrap(), None);
    // Other config maps' keys.
    assert_eq!(read(directory(&[("masq", "{")]).path()).unwrap(), None);
}

#[test]
fn an_empty_file_says_that_nothing_is_exempt() {
    for text in ["", "# nothing\n", "{}", "nonMasqueradeCIDRs: []\n", "null"] {
        assert_eq!(
            merged(&[("ip-masq-agent", text)]),
            settings(&[], false),
            "{text:?}"
        );
    }
}

#[test]
fn yaml_and_json_with_keys_in_any_case() {
    for text in [
        "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - \"172.16.0.0/12\"\nmasqLinkLocal: true\nresyncInterval: 60s\n",
        "nonmasqueradecidrs: [10.0.0.0/8, 172.16.0.0/12]\nmasqlinklocal: true\nmasqlinklocalipv6: true\n",
        "{\n\t\"NonMasqueradeCIDRs\": [\"10.0.0.0/8\", \"172.16.0.0/12\"],\n\t\"MasqLinkLocal\": true\n}\n",
        // A lone dash, as AKS once wrote it, and IPv6.
        "nonMasqueradeCIDRs:\n- 172.16.0.0/12\n-\n- fd00::/8\n- 10.0.0.0/8\nmasqLinkLocal: true\n",
    ] {
        let expected = settings(&["10.0.0.0/8", "172.16.0.0/12"], true);
        assert_eq!(merged(&[("ip-masq-agent", text)]), expected, "{text}");
    }
}

#[test]
fn several_files_are_united() {
    let files = [
        (
            "ip-masq-agent",
            "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]",
        ),
        (
            "ip-masq-agent-reconciled",
            "nonMasqueradeCIDRs: [10.0.0.0/8, 172.16.0.0/12]\nmasqLinkLocal: true",
        ),
    ];
    assert_eq!(
        merged(&files),
        settings(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], true)
    );
}

#[test]
fn a_bad_file_is_named_with_what_is_wrong() {
    let good = ("ip-masq-a", "nonMasqueradeCIDRs: [10.0.0.0/8]");
    for (text, names) in [
        (
            "nonMasqueradeCIDRs: [10.0.0.0/8",
            vec!["neither YAML nor JSON"],
        ),
        ("nonMasqueradeCIDRs: 10.0.0.0/8", vec!["nonMasqueradeCIDRs"]),
        ("masqLinkLocal: maybe", vec!["masqLinkLocal"]),
        ("- 10.0.0.0/8", vec!["an object"]),
        (
            "nonMasqueradeCIDRs: [10.0.0.1/8, 10.0.0.0/33, 172.16.0.0/12]",
            vec!["\"10.0.0.1/8\"", "10.0.0.0/8", "\"10.0.0.0/33\""],
        ),
    ] {
        let error = refused(&[good, ("ip-masq-b", text)]);
        assert!(error.contains("ip-masq-b"), "{error}");
        assert!(
            names.iter().all(|name| error.contains(name)),
            "{text}: {error}"
        );
    }
}

#[test]
fn files_that_would_grow_or_wait_are_refused() {
    let large = "#".repeat(300 << 10);
    assert!(refused(&[("ip-masq-agent", &large)]).contains("larger"));
    let bomb = "a: &a [1,1,1,1,1,1,1,1,1,1]\n".to_owned()
        + &(0..12)
            .map(|n: u8| {
                let (new, old) = (char::from(b'b' + n), char::from(b'a' + n));
                format!("{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n")
            })
            .collect::<String>();
    assert!(refused(&[("ip-masq-agent", &bomb)]).contains("YAML"));
    let deep = "[".repeat(100_000);
    assert!(refused(&[("ip-masq-agent", &deep)]).contains("YAML"));
    let many: String = (0..5000)
        .map(|n| format!("- 172.{}.{}.0/24\n", n / 256, n % 256))
        .collect();
    let many = format!("nonMasqueradeCIDRs:\n{many}");
    assert!(refused(&[("ip-masq-agent", &many)]).contains("5000 prefixes"));

    let directory = directory(&[]);
    let pipe = directory.path().join("ip-masq-pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let error = read(directory.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn a_thousand_ranges_are_taken() {
    let lines: String = (0..1000)
        .map(|n| format!("  - 172.{}.{}.0/24\n", 16 + n / 256, n % 256))
        .collect();
    let settings = merged(&[("ip-masq-agent", &format!("nonMasqueradeCIDRs:\n{lines}"))]);
    assert_eq!(settings.ranges.len(), 1000);
}

#[test]
fn a_config_map_is_links_to_files() {
    let directory = directory(&[]);
    let version = directory.path().join("..2026_11_25");
    fs::create_dir(&version).unwrap();
    fs::write(version.join("ip-masq-agent"), "masqLinkLocal: true").unwrap();
    std::os::unix::fs::symlink(&version, directory.path().join("..data")).unwrap();
    std::os::unix::fs::symlink(
        "..data/ip-masq-agent",
        directory.path().join("ip-masq-agent"),
    )
    .unwrap();
    assert_eq!(read(directory.path()).unwrap(), Some(settings(&[], true)));
}

#[test]
fn a_bad_file_keeps_the_last_good_set_and_is_counted_once() {
    let error = |text: &str| Error::File {
        path: text.into(),
        reason: Reason::Read(ReadError::NotRegular),
    };
    let good = next(
        Ok(Some(settings(&["10.0.0.0/8"], true))),
        &InForce::default(),
    );
    let bad = next(Err(error("one")), &good);
    assert_eq!(bad.settings, good.settings);
    assert!(bad.problem.as_ref().unwrap().contains("one"));
    assert_eq!(next(Err(error("one")), &bad), bad);
    assert_eq!(next(Err(error("two")), &bad).refused, 2);
    let gone = next(Ok(None), &bad);
    assert_eq!((gone.settings, gone.problem, gone.refused), (None, None, 1));
}

#[test]
fn a_file_has_bounds() {
    let deep = format!("nonMasqueradeCIDRs: {}{}", "[".repeat(40), "]".repeat(40));
    let aliases: String = (0..100).map(|n| format!("a{n}: &a{n} [1]\n")).collect();
    let documents = "---\n{}\n".repeat(3);
    let nodes = format!("x: [{}0]", "0,".repeat(120_000));
    assert_eq!(merged(&[("ip-masq-agent", &nodes)]), settings(&[], false));
    for text in [&deep, &aliases, &documents] {
        let problem = refused(&[("ip-masq-agent", text)]);
        assert!(problem.contains("neither YAML nor JSON"), "{problem}");
    }
    let nodes = format!("x: [{}0]", "0,".repeat(131_072));
    assert!(refused(&[("ip-masq-agent", &nodes)]).contains("larger than 262144 bytes"));
}

#[test]
fn an_error_does_not_repeat_the_file() {
    let text = format!("nonMasqueradeCIDRs: [\"{}\"]", "x\u{1b}".repeat(10_000));
    let many = format!("nonMasqueradeCIDRs: [{}x]", "x,".repeat(10_000));
    for text in [&text, &many] {
        let problem = refused(&[("ip-masq-agent", text)]);
        assert!(
            problem.len() < 4096 && !problem.contains('\u{1b}'),
            "{problem}"
        );
    }
}
