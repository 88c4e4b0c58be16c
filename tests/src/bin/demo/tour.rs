//! `--tour`: the command line on a node of the running simulation, as an operator would use it.

use azure_vnet_testbed::address_plan::{INTERNET, ON_PREM};
use azure_vnet_testbed::pod::Pod;
use azure_vnet_testbed::{Error, PLUGIN_DIR, Vm};

/// Metrics have a line for everything; these are enough to see what they are like.
const METRIC_LINES: usize = 14;

/// Shows each command with what it prints. Fails if one cannot be carried out.
pub fn show(vm: &Vm, pods: &[Pod<'_>]) -> Result<usize, Error> {
    let Some(pod) = pods.first() else {
        return Ok(0);
    };
    let pod = pod.address.to_string();
    let [internet, on_prem] = [INTERNET[0], ON_PREM].map(|host| format!("{host}:443"));
    println!("\nThe tour, on {}:", vm.name);
    let stops: [(&str, &[&str]); 8] = [
        ("What is in place?", &["status"]),
        ("Who is attached?", &["pods"]),
        ("Where do the pods go?", &["flows", "--top", "5"]),
        ("What does this pod have open?", &["flows", "--pod", &pod]),
        (
            "Why is this masqueraded?",
            &["explain", "tcp", &pod, &internet],
        ),
        ("And why is this not?", &["explain", "tcp", &pod, &on_prem]),
        ("What would an alert go by?", &["metrics"]),
        ("Is anything in the way?", &["doctor"]),
    ];
    let mut failed = 0;
    for (question, arguments) in stops {
        let program = vm.program(&format!("{PLUGIN_DIR}/azure-vnet"))?;
        let output = program.args(arguments).output()?;
        println!("\n# {question}\n$ azure-vnet {}", arguments.join(" "));
        let lines = output.stdout.lines().count();
        let shown = if arguments == ["metrics"] {
            METRIC_LINES
        } else {
            lines
        };
        for line in output.stdout.lines().take(shown) {
            println!("{line}");
        }
        if lines > shown {
            println!("({} more lines)", lines - shown);
        }
        // 1 is an answer: something is not as it should be. Above that there is none.
        if output.status.code().is_none_or(|code| code > 1) {
            println!("{}NO", output.stderr);
            failed += 1;
        }
    }
    Ok(failed)
}
