//! How much of the verifier's budget a program may take.
//!
//! A kernel walks a million instructions at most, and older ones prune less: a program that grows
//! there stops loading on somebody's node. The count needs no quiet machine, so it is a guard that a
//! timing could not be. It differs by a few per cent from kernel to kernel.

use anyhow::{Context, Result, bail, ensure};

/// Instructions that the verifier may walk for a program without a line of its own.
const CEILING: u32 = 10_000;

/// Programs that may take more, and why.
const EXCEPTIONS: [(&str, u32, &str); 3] = [
    (
        "from_pod",
        20_000,
        "it walks all that a packet can do to the life of its flow",
    ),
    (
        "from_uplink",
        25_000,
        "it walks that as well, and how room is made for a flow that comes in",
    ),
    (
        "to_uplink",
        40_000,
        "it walks every turn of the search for a port, the policy on two ways to it, and all that the others walk",
    ),
];

/// Fails if a program of this table (`ebpf-stats`: a heading, then name and instructions first in each
/// line) takes more than it may.
pub fn check(table: &str) -> Result<()> {
    let mut programs = 0;
    for line in table.lines().skip(1) {
        let mut columns = line.split_whitespace();
        let (Some(program), Some(walked)) = (columns.next(), columns.next()) else {
            continue;
        };
        programs += 1;
        if walked == "-" {
            // A kernel before 5.16 does not tell.
            continue;
        }
        let walked: u32 = walked
            .parse()
            .with_context(|| format!("{program}: {walked} is no number of instructions"))?;
        let exception = EXCEPTIONS.iter().find(|(name, ..)| *name == program);
        let (ceiling, why) = exception
            .map_or((CEILING, "the ceiling of all"), |(_, ceiling, why)| {
                (*ceiling, *why)
            });
        if walked > ceiling {
            bail!(
                "the verifier walks {walked} instructions of {program}, and {ceiling} is the ceiling ({why}): \
                 make rare ways functions of their own (`#[inline(never)]`), or raise it in \
                 xtask/src/verifier_cost.rs and say why"
            );
        }
    }
    ensure!(programs > 0, "no programs in the table\n{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(program: &str, walked: &str) -> String {
        format!(
            "program  verified instructions  bytes\n{program:<14}{walked:>22}{:>13}\n",
            2192
        )
    }

    #[test]
    fn a_program_over_its_ceiling_fails_with_number_and_reason() {
        assert!(check(&table("to_pods", "10000")).is_ok());
        let error = check(&table("to_pods", "10001")).map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.contains("10001") && text.contains("to_pods")));
    }

    #[test]
    fn an_exception_has_its_own() {
        for (program, ceiling, why) in EXCEPTIONS {
            assert!(check(&table(program, &ceiling.to_string())).is_ok());
            let error = check(&table(program, &(ceiling + 1).to_string()));
            assert!(error.is_err_and(|error| error.to_string().contains(why)));
        }
    }

    #[test]
    fn a_kernel_that_does_not_tell_is_no_failure_and_an_empty_table_is() {
        assert!(check(&table("from_uplink", "-")).is_ok());
        assert!(check("program verified\n").is_err());
    }
}
