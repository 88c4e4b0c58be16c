//! Fuzzing: input from outside is accepted or refused, and never a panic.
//!
//! This stage runs every target over its corpus and over a fixed number of inputs made from it by a fixed
//! seed: seconds, the same every time, and with the stable compiler. For hours, and guided by coverage:
//!
//! ```text
//! cargo install cargo-fuzz
//! cd tests/fuzz/cargo-fuzz && mkdir -p found
//! cargo +nightly fuzz run --fuzz-dir . configuration found ../corpus/configuration
//! ```
//!
//! What it finds goes into the corpus under a name that says what it is, and is a test from then on. Names
//! begin with `good-` if the input is accepted, with `bad-` if it is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::{
    fs, panic,
    path::Path,
    time::{Duration, Instant},
};

use mutate::Mutator;

mod mutate;
mod targets;

/// Inputs for each target: two to three seconds of a debug build altogether.
const INPUTS: usize = 20_000;

/// Names the seconds that each target goes on for instead; for a longer run by hand.
const SECONDS: &str = "AZURE_VNET_FUZZ_SECONDS";

type Target = fn(&[u8]) -> bool;

#[test]
fn configuration() {
    fuzz("configuration", targets::configuration);
}

#[test]
fn cni_args() {
    fuzz("cni-args", targets::cni_args);
}

#[test]
fn prev_result() {
    fuzz("prev-result", targets::prev_result);
}

#[test]
fn wireserver() {
    fuzz("wireserver", targets::wireserver);
}

#[test]
fn imds() {
    fuzz("imds", targets::imds);
}

#[test]
fn address_file() {
    fuzz("address-file", targets::address_file);
}

#[test]
fn ip_masq_agent() {
    fuzz("ip-masq-agent", targets::ip_masq_agent);
}

#[test]
fn cluster_definition() {
    fuzz("cluster-definition", targets::cluster_definition);
}

#[test]
fn signature() {
    fuzz("signature", targets::signature);
}

/// Depth that a few bytes more each would not reach; the same for every target.
#[test]
fn depth_does_not_exhaust_the_stack() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("<a>", "</a>"), ("a=b;", "")] {
        let input = open.repeat(100_000) + &close.repeat(100_000);
        for target in [
            targets::configuration,
            targets::cni_args,
            targets::prev_result,
            targets::imds,
            targets::address_file,
            targets::ip_masq_agent,
            targets::cluster_definition,
        ] {
            target(input.as_bytes());
        }
        let xml = format!("<Interfaces>{input}</Interfaces>");
        targets::wireserver(xml.as_bytes());
    }
}

fn fuzz(name: &str, target: Target) {
    let corpus = corpus(name);
    for (name, input) in &corpus {
        let expected = name.starts_with("good-");
        assert_eq!(target(input), expected, "{name}");
    }
    let seeds: Vec<&[u8]> = corpus.iter().map(|(_, input)| &input[..]).collect();
    let mut mutator = Mutator::new(&seeds);
    let mut accepted = 0;
    let seconds = std::env::var(SECONDS)
        .ok()
        .and_then(|text| text.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut inputs = 0;
    while end.map_or(inputs < INPUTS, |end| Instant::now() < end) {
        inputs += 1;
        let input = mutator.next_input();
        let verdict = panic::catch_unwind(|| target(&input)).unwrap_or_else(|_| {
            panic!(
                "put this into the corpus: {:?}",
                String::from_utf8_lossy(&input)
            )
        });
        accepted += usize::from(verdict);
    }
    // Else the inputs would be so broken that nothing behind the first check is reached, or not broken at all.
    assert!(
        (inputs / 100..inputs).contains(&accepted),
        "{accepted} of {inputs} accepted"
    );
    println!("{name}: {accepted} of {inputs} accepted");
}

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    // The order of a directory is not the same everywhere, and inputs are made from it.
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let known = ["good-", "bad-"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        assert!(known, "{name}: good-… or bad-…?");
        (name, fs::read(path).unwrap())
    };
    files.iter().map(read).collect()
}
