//! Every source from its own form to an address.

use std::fs;

use serde_json::json;

use crate::{node::Node, wireserver::Answer};

#[test]
fn the_metadata_service() {
    let mut node = Node::with(0);
    let answer = json!({"interface": [{"macAddress": "000D3A112233", "ipv4": {
        "ipAddress": [{"privateIpAddress": "10.20.0.4"}, {"privateIpAddress": "10.20.0.5"}],
        "subnet": [{"address": "10.20.0.0", "prefix": "22"}]}}]});
    node.server.set(Answer::Imds(answer.to_string()));
    node.ipam = json!({"environment": "imds", "imds": format!("http://{}", node.server.address)});
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    assert_eq!(node.refused("c2")["code"], 110);
    node.server.set(Answer::Imds("{}".into()));
    node.del("c1");
    assert_eq!(node.add("c2"), "10.20.0.5/22", "the snapshot is good");
}

#[test]
fn a_file_is_read_again_when_it_is_due() {
    let mut node = Node::with(0);
    node.use_file(&[]);
    let path = node.beside("list.json");
    fs::remove_file(&path).unwrap();
    let error = node.refused("c1").to_string();
    assert!(
        error.contains("list.json") && error.contains("ipam.file"),
        "{error}"
    );
    node.use_file(&["10.20.0.5", "10.20.0.6"]);
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    // A removal counts at once: there is nobody to wait for.
    node.use_file(&["10.20.0.5", "10.20.0.7"]);
    assert_eq!(node.add("c2"), "10.20.0.7/22");
    // Half of it, while somebody writes it.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    node.del("c2");
    assert_eq!(node.add("c3"), "10.20.0.7/22");
    assert_eq!(node.server.requests(), 0);
}

/// Also what would keep a reader waiting for ever, or fill the memory.
#[test]
fn a_file_that_is_none_is_an_error() {
    let mut node = Node::with(0);
    for (path, text) in [
        ("/proc/self", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("/nonexistent/list.json", "No such file"),
    ] {
        node.ipam = json!({"environment": "file", "file": path});
        let error = node.refused("c1").to_string();
        assert!(error.contains(text) && error.contains(path), "{error}");
    }
    let path = node.beside("large.json");
    fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    node.ipam = json!({"environment": "file", "file": path});
    let error = node.refused("c1").to_string();
    assert!(error.contains("larger than"), "{error}");
}

#[test]
fn a_source_that_restarts_is_asked_again() {
    let node = Node::with(0);
    // Answers 503 to the first question, as an agent does that is coming up.
    node.server
        .set_in_turn(Answer::Status(503), Answer::Xml(crate::wireserver::nic(1)));
    assert_eq!(node.add("c1"), "10.20.0.5/22");
    assert_eq!(node.server.requests(), 2);
}
