//! Which system calls wait, and how a child comes to have them wait.

use std::io;
use std::os::fd::RawFd;

/// Where the child says which descriptor its listener is: above all that programs use, so that the filter can tell it.
const REPORT_FD: RawFd = 700;

/// The system calls that are looked at: all that change something outside the process, and those that open what it reads.
const WATCHED: &[libc::c_long] = &[
    libc::SYS_bpf,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_connect,
    libc::SYS_execve,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mount,
    libc::SYS_openat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_rmdir,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setns,
    libc::SYS_socket,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_unshare,
    libc::SYS_vfork,
    libc::SYS_write,
];

/// Loads the number, lets a write to [`REPORT_FD`] through, has the watched calls wait and everything else pass.
pub fn filter() -> Vec<libc::sock_filter> {
    let op = |code: u32| u16::try_from(code).unwrap();
    let load = op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let equals = op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let answer = op(libc::BPF_RET | libc::BPF_K);
    let statement = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let number = |number: libc::c_long| u32::try_from(number).unwrap();
    let mut program = vec![
        statement(load, 0),
        libc::sock_filter {
            code: equals,
            jt: 0,
            jf: 3,
            k: number(libc::SYS_write),
        },
        // The first argument's lower half, on a machine of little endian.
        statement(load, 16),
        libc::sock_filter {
            code: equals,
            jt: 0,
            jf: 1,
            k: u32::try_from(REPORT_FD).unwrap(),
        },
        statement(answer, libc::SECCOMP_RET_ALLOW),
        statement(load, 0),
    ];
    let count = WATCHED.len();
    for (at, watched) in WATCHED.iter().enumerate() {
        let jt = u8::try_from(count - at).unwrap();
        program.push(libc::sock_filter {
            code: equals,
            jt,
            jf: 0,
            k: number(*watched),
        });
    }
    program.push(statement(answer, libc::SECCOMP_RET_ALLOW));
    program.push(statement(answer, libc::SECCOMP_RET_USER_NOTIF));
    program
}

/// In the child, before exec: installs the filter and reports process ID and listener.
pub fn listen(report: RawFd, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or_default(),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: dup3, seccomp, getpid and write take numbers, and pointers to values of this frame and of the caller's that outlive them.
    unsafe {
        if libc::dup3(report, REPORT_FD, libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        let listener = libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        );
        let Ok(listener) = i32::try_from(listener) else {
            return Err(io::Error::other("a strange descriptor"));
        };
        if listener < 0 {
            return Err(io::Error::last_os_error());
        }
        let words = [libc::getpid(), listener];
        let size = size_of_val(&words);
        if libc::write(REPORT_FD, words.as_ptr().cast(), size) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
