//! What became of each step.

use std::fmt;
use std::time::Duration;

use crate::machine::Tier;

/// Manager × step.
pub struct Table {
    manager: &'static str,
    tier: Tier,
    rows: Vec<Row>,
}

struct Row {
    step: String,
    time: Duration,
    failed: Vec<String>,
    remarks: Vec<String>,
}

impl Table {
    pub fn new(manager: &'static str, tier: Tier) -> Self {
        Self {
            manager,
            tier,
            rows: Vec::new(),
        }
    }

    /// Notes what failed in a step; whether nothing did.
    pub fn add(&mut self, step: &str, time: Duration, failed: Vec<String>) -> bool {
        self.add_with(step, time, failed, Vec::new())
    }

    /// The same, with what is worth to be known.
    pub fn add_with(
        &mut self,
        step: &str,
        time: Duration,
        failed: Vec<String>,
        remarks: Vec<String>,
    ) -> bool {
        let holds = failed.is_empty();
        self.rows.push(Row {
            step: step.to_owned(),
            time,
            failed,
            remarks,
        });
        holds
    }

    pub fn holds(&self) -> bool {
        self.rows.iter().all(|row| row.failed.is_empty())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.rows.iter().filter(|row| row.failed.is_empty()).count();
        writeln!(
            out,
            "\n{}, {:?}: {held} of {} steps hold",
            self.manager,
            self.tier,
            self.rows.len()
        )?;
        for Row {
            step,
            time,
            failed,
            remarks,
        } in &self.rows
        {
            let seconds = time.as_secs_f32();
            let said = if failed.is_empty() {
                let remarks = remarks.iter().map(|remark| format!(" ({remark})"));
                format!("ok{}", remarks.collect::<String>())
            } else {
                failed.join("; ")
            };
            writeln!(out, "  {step:<28}{seconds:>6.1} s  {said}")?;
        }
        Ok(())
    }
}
