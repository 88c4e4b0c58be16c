//! On a node where no pod was ever attached, every command has an answer.

use azure_vnet_testbed::Azure;

use crate::golden::assert_golden;
use crate::scene::transcript;

const COMMANDS: [&str; 4] = ["status", "pods", "flows", "metrics"];

#[test]
fn nothing_is_there_yet_is_an_answer() {
    let azure = Azure::builder().build().unwrap();
    let vm = &azure.vms[0];
    let commands: Vec<[&str; 2]> = COMMANDS.map(|command| [command, "--json"]).into();
    let commands: Vec<&[&str]> = commands
        .iter()
        .flat_map(|both| [&both[..1], &both[..]])
        .collect();
    let all = transcript(vm, &commands);
    assert_golden("not_set_up.txt", &all);
}
