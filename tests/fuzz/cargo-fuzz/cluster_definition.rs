#![no_main]
#![allow(dead_code, reason = "the other targets are in the same file")]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    targets::cluster_definition(input);
});
