//! Work that nobody waits for, in a process of its own.
//!
//! A runtime waits for the plugin's exit, and most also for the end of its output, so the work goes on in a child
//! that has left both behind: with no descriptor of the call, in a session of its own, and for a limited time.

use std::{
    fs,
    io::{self, Error},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::Duration,
};

/// More than the work may take by its own limits: what it is stopped by if those fail.
const ALARM_SECONDS: u32 = 60;

/// How often, and how long apart, it is looked whether a thread that has returned is gone: the kernel lists it a moment longer.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// Starts `work`, which must not need any open file, and returns at once.
///
/// # Errors
/// The kernel refuses a process, or this one has threads: then the child could inherit a lock that nobody opens.
pub fn run(work: impl FnOnce()) -> io::Result<()> {
    let mut looks = 0;
    while fs::read_dir("/proc/self/task")?.count() != 1 {
        looks += 1;
        if looks == LOOKS {
            return Err(Error::other("this process has threads"));
        }
        thread::sleep(PAUSE);
    }
    // SAFETY: there is one thread, so the child's copy of the memory is consistent, and whatever it calls is as
    // usable as here.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        0 => {
            // Its messages would go into whatever gets the log's descriptor; what matters is in the record.
            azure_vnet_cni::log::leave();
            let_go();
            let _ = catch_unwind(AssertUnwindSafe(work));
            // SAFETY: ends this process without running what the parent has registered to run at its own end.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(()),
    }
}

/// Leaves the caller's session, descriptors and directory.
fn let_go() {
    // SAFETY: none of these touches memory but the literals; the descriptors belong to the parent's values, which
    // are not used here. What fails leaves the child as it was, which `alarm` limits.
    unsafe {
        libc::alarm(ALARM_SECONDS);
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        // Kernel 5.9; then the first three are given away again, so that nothing else gets their numbers.
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::dup(null);
        libc::dup(null);
    }
}
