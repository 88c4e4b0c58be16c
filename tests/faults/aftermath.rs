//! What has to be true after each case.

use serde_json::{Value, json};

use azure_vnet_testbed::connection::Connection;

use crate::bench::{Bench, everything, reaches, works};
use crate::call::{TEARDOWN, complaint, disturb, error_object};
use crate::cases::Case;
use crate::fixture::{Container, Node, Tier, address};
use crate::interceptor::Ended;
use crate::original::Original;
use crate::picture::difference;
use crate::table::Verdict;

pub fn add(bench: &mut Bench<'_>, case: &Case) -> Verdict {
    let container = bench.node.container();
    let ended = reached(disturb(&container, "ADD", &case.traced, case.how))?;
    bench.others_work("after the ADD")?;
    let result = if ended.killed {
        after_kill(bench, &container, case)?
    } else if ended.success {
        works(&container)?;
        "succeeded, works".to_owned()
    } else {
        let error = error_object(&ended, &case.traced)?;
        bench.nothing_left(&format!("after the failed ADD ({})", ended.stdout))?;
        error
    };
    delete(&container)?;
    bench.nothing_left("after DEL")?;
    bench.check()?;
    Ok(result)
}

fn after_kill(bench: &mut Bench<'_>, container: &Container<'_>, case: &Case) -> Verdict {
    match case.then {
        "ADD" => {
            // What stands may be refused as it is not known to be whole; a runtime then asks for DEL.
            let again = container.call("ADD", &json!({})).added();
            if again.is_ok() {
                works(container)?;
                bench.others_work("after the second ADD")?;
                return Ok("killed; works".into());
            }
            bench.others_work("after the second ADD")?;
            let refused = again.unwrap_err();
            if refused.contains("exists already") {
                Ok("killed; refused until DEL".into())
            } else {
                Err(format!("the second ADD: {refused}"))
            }
        }
        "GC" => {
            bench.gc()?;
            bench.nothing_left("after GC")?;
            Ok("killed; gone".into())
        }
        _ => Ok("killed; gone".into()),
    }
}

pub fn del(bench: &mut Bench<'_>, case: &Case) -> Verdict {
    let container = bench.node.container();
    container.add();
    let ended = reached(disturb(&container, "DEL", &case.traced, case.how))?;
    bench.others_work("after the DEL")?;
    let result = if ended.killed {
        if case.then == "GC" {
            bench.gc()?;
            bench.nothing_left("after GC")?;
        }
        "killed; gone".to_owned()
    } else if ended.success {
        bench.nothing_left("after a DEL that said it was done")?;
        "succeeded, gone".to_owned()
    } else {
        error_object(&ended, &case.traced)?
    };
    delete(&container)?;
    bench.nothing_left("after the last DEL")?;
    bench.check()?;
    Ok(result)
}

pub fn first_add(tier: Tier, case: &Case) -> Verdict {
    let node = Node::new(tier);
    let mut connection = Connection::open(node.vm().namespace(), &node.azure().internet).unwrap();
    let container = node.container();
    let ended = reached(disturb(&container, "ADD", &case.traced, case.how))?;
    let result = if ended.killed {
        follow(&container, case.then)?;
        "killed; works"
    } else if ended.success {
        works(&container)?;
        "succeeded, works"
    } else {
        error_object(&ended, &case.traced)?;
        no_pods(&node, &format!("after the failed ADD ({})", ended.stdout))?;
        "failed; works"
    };
    if case.then != "ADD" {
        node_works(&node, &mut connection, "before the next ADD")?;
        no_move_left(&node)?;
    }
    if !ended.success {
        add_again(&container, ended.killed)?;
        works(&container)?;
    }
    node_works(&node, &mut connection, "after the next ADD")?;
    delete(&container)?;
    no_pods(&node, "after DEL")?;
    Ok(result.to_owned())
}

pub fn teardown(node: &Node, before: &[String], case: &Case) -> Verdict {
    let mut connection = Connection::open(node.vm().namespace(), &node.azure().internet).unwrap();
    let pod = node.container();
    pod.add();
    delete(&pod)?;
    let ended = reached(disturb(&pod, TEARDOWN, &case.traced, case.how))?;
    let result = if ended.killed {
        match case.then {
            "ADD" => {
                add_again(&pod, true)?;
                works(&pod)?;
                node_works(node, &mut connection, "after the ADD")?;
                delete(&pod)?;
                "killed; works"
            }
            "DEL" => {
                delete(&pod)?;
                no_move_left(node)?;
                node_works(node, &mut connection, "after the DEL")?;
                "killed; works"
            }
            _ => "killed; as before",
        }
    } else if ended.success {
        is_as_before(node, before, "after a teardown that said it was done")?;
        "succeeded, as before"
    } else {
        complaint(&ended)?;
        node_works(node, &mut connection, "after the failed teardown")?;
        "failed; works"
    };
    let last = node.teardown(&[]).output().unwrap();
    if !last.status.success() {
        return Err(format!("the next teardown: {last:?}"));
    }
    is_as_before(node, before, "after the next teardown")?;
    node_works(node, &mut connection, "after the next teardown")?;
    Ok(result.to_owned())
}

fn is_as_before(node: &Node, before: &[String], when: &str) -> Result<(), String> {
    match difference(&node.picture(), before) {
        Some(difference) => Err(format!("{when}: {difference}")),
        None => Ok(()),
    }
}

pub fn upgrade(tier: Tier, case: &Case) -> Verdict {
    let node = Node::new(tier);
    let mut original = Original::new(&node);
    let mut connection = Connection::open(node.vm().namespace(), &node.azure().internet).unwrap();
    let container = node.container();
    let ended = reached(disturb(&container, "ADD", &case.traced, case.how))?;
    let result = if ended.killed {
        if case.then == "DEL" {
            original.pods[0].delete(&node)?;
        }
        "killed; works"
    } else if ended.success {
        works(&container)?;
        "succeeded, works"
    } else {
        error_object(&ended, &case.traced)?;
        "failed; works"
    };
    if case.then != "ADD" {
        node_works(&node, &mut connection, "before the next ADD")?;
        original.is_taken_over(&node, "before the next ADD")?;
    }
    if ended.killed && case.then != "ADD" {
        no_move_left(&node)?;
    }
    let added = if ended.success {
        serde_json::from_str(&ended.stdout).map_err(|error| error.to_string())?
    } else {
        add_again(&container, ended.killed)?
    };
    original.keeps_addresses_from(address(&added))?;
    works(&container)?;
    let beside = node.container();
    original.keeps_addresses_from(address(&beside.add()))?;
    works(&beside)?;
    node_works(&node, &mut connection, "after the next ADD")?;
    no_move_left(&node)?;
    original.is_taken_over(&node, "after the next ADD")?;
    for pod in [&container, &beside] {
        delete(pod)?;
    }
    original.is_taken_over(&node, "after DEL")?;
    original.delete_pods(&node)?;
    no_pods(&node, "after the last DEL")?;
    Ok(result.to_owned())
}

/// The call that comes next on a node whose first ADD was killed.
fn follow(container: &Container<'_>, then: &str) -> Result<(), String> {
    match then {
        "DEL" => delete(container),
        "GC" => {
            let nothing = json!({ "cni.dev/valid-attachments": [] });
            let answer = container.node().call("GC", &nothing).silent();
            answer.map_err(|answer| format!("GC: {answer}"))
        }
        _ => Ok(()),
    }
}

/// What stands after a kill may be refused until DEL.
fn add_again(container: &Container<'_>, killed: bool) -> Result<Value, String> {
    let add = || container.call("ADD", &json!({})).added();
    match add() {
        Err(refused) if killed && refused.contains("exists already") => {
            delete(container)?;
            add()
        }
        outcome => outcome,
    }
    .map_err(|answer| format!("the next ADD: {answer}"))
}

/// Fails if anything is left of pods on a node that has none.
fn no_pods(node: &Node, when: &str) -> Result<(), String> {
    let mut left = everything(node);
    left.retain(|line| of_pod(line));
    if left.is_empty() {
        return Ok(());
    }
    Err(format!("{when}: left {left:?}"))
}

/// Fails if the node's network is on its way back to the NIC, and nobody goes on: there is a journal of a takeover.
fn no_move_left(node: &Node) -> Result<(), String> {
    let journal = "/run/azure-vnet/node-azure0.json";
    let text = node
        .vm()
        .namespace()
        .run(|| std::fs::read_to_string(journal));
    match text.unwrap() {
        Ok(text) if text.contains("\"version\":1") => {
            Err(format!("a takeover was not ended: {text}"))
        }
        _ => Ok(()),
    }
}

/// The node itself: its connection from before, and a new one.
fn node_works(node: &Node, connection: &mut Connection, when: &str) -> Result<(), String> {
    reaches(node, node.vm().namespace()).map_err(|error| format!("{when}: the node: {error}"))?;
    connection
        .is_alive()
        .map_err(|error| format!("{when}: the node's connection: {error}"))
}

/// Whether a line of [`everything`] is about a pod rather than about the node.
fn of_pod(line: &str) -> bool {
    ["azv", "lease ", "neighbour ", "pods ", "ports ", "macs "]
        .iter()
        .any(|word| line.contains(word))
        || line.contains(".tmp")
        || line.contains(".new")
}

fn reached(ended: Option<Ended>) -> Result<Ended, String> {
    ended.ok_or_else(|| "the call never came to this step".to_owned())
}

/// DEL, which must succeed.
fn delete(container: &Container<'_>) -> Result<(), String> {
    let answer = container.del().silent();
    answer.map_err(|answer| format!("DEL: {answer}"))
}
