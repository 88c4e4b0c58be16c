//! What a call does to the system, counted in what strace saw of it.

/// Counts of one call and of all that it started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// File names of the programs that were executed, the first included.
    pub programs: Vec<String>,
    /// System calls.
    pub system_calls: usize,
    /// Messages to netlink.
    pub netlink_messages: usize,
    /// `fsync` and `fdatasync`.
    pub files_synced: usize,
    /// Threads and processes that were started.
    pub started: usize,
}

/// The options of strace that make it write to `file` what [`Counts::read`] reads; the program follows.
pub fn options(file: &str) -> [&str; 6] {
    ["-f", "-qq", "-s", "48", "-o", file]
}

impl Counts {
    /// Counts what strace wrote: a line for each system call, a second one where another thread came between.
    pub fn read(trace: &str) -> Self {
        let calls = trace
            .lines()
            .filter_map(|line| line.split_once(' ').map(|(_, call)| call.trim_start()))
            .filter(|call| !call.starts_with(['+', '-', '<']));
        let mut counts = Self::default();
        for call in calls {
            counts.system_calls += 1;
            let name = call.split('(').next().unwrap_or_default();
            match name {
                // One that fails executes nothing; one that is not finished on its line does not fail.
                "execve" if !call.contains(" = -1 ") => {
                    let path = call.split('"').nth(1).unwrap_or_default();
                    let file = path.rsplit('/').next().unwrap_or_default();
                    counts.programs.push(file.to_owned());
                }
                "sendto" | "sendmsg" => {
                    counts.netlink_messages += call.matches("nlmsg_len=").count();
                }
                "fsync" | "fdatasync" => counts.files_synced += 1,
                "clone" | "clone3" | "fork" | "vfork" => counts.started += 1,
                _ => {}
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strace_writes_is_counted() {
        let trace = r#"10 execve("/opt/cni/bin/azure-vnet", ["/opt/cni/bin/azure-vnet"], 0x7ffd /* 41 vars */) = 0
10 clone3({flags=CLONE_VM|CLONE_VFORK}, 88 <unfinished ...>
11 execve("/nowhere/x", ["x"], 0x7ffd /* 41 vars */) = -1 ENOENT (No such file or directory)
11 execve("/opt/cni/bin/azure-vnet-ipam", ["azure-vnet-ipam"], 0x555e /* 41 vars */ <unfinished ...>
10 <... clone3 resumed>)                   = 11
10 sendto(9, [{nlmsg_len=52, nlmsg_type=0x12, nlmsg_flags=NLM_F_REQUEST}, "..."...], 52, 0, NULL, 0) = 52
11 fsync(4)                                = 0
11 +++ exited with 0 +++
10 --- SIGCHLD {si_signo=SIGCHLD} ---
"#;
        let expected = Counts {
            programs: vec!["azure-vnet".into(), "azure-vnet-ipam".into()],
            system_calls: 6,
            netlink_messages: 1,
            files_synced: 1,
            started: 1,
        };
        assert_eq!(Counts::read(trace), expected);
    }
}
