//! What a system call means: the steps of which a call of the plugin consists, each with a name that is the same in every run.

use std::mem::offset_of;
use std::os::fd::AsFd as _;

use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_domain, socket_protocol};

use crate::interceptor::Waiting;

/// What the last step is called.
pub const ANSWER: &str = "write the answer";
/// How the writes of sysctls begin.
pub const SYSCTL_WRITE: &str = "write /proc/sys/";

/// A step of one of the programs that a call runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// `azure-vnet`, `azure-vnet-ipam` or `nft`.
    pub program: String,
    /// What it does.
    pub what: String,
    /// Which time it does just that, from 1.
    pub time: usize,
}

/// A step, and how it can fail.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it does.
    pub what: String,
    /// An error that the kernel gives for such a call.
    pub errno: Errno,
    /// Whether it changes something outside the process; otherwise it only reads.
    pub changes: bool,
    /// Where its netlink message is, if it is one.
    pub message: Option<u64>,
}

/// What the call means; none if it is of no consequence outside the process.
pub fn of(call: &Waiting) -> Option<Seen> {
    let [a, b, c, d, ..] = call.arguments;
    let path = |at| call.text(at);
    let seen = match call.number {
        libc::SYS_execve => change(format!("execute {}", name_of(&path(a))), Errno::NOMEM),
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_vfork => {
            change("start a process or a thread".into(), Errno::AGAIN)
        }
        libc::SYS_socket => read(format!("open a socket of family {a}"), Errno::MFILE),
        libc::SYS_connect => return connect(call),
        libc::SYS_sendto => return send(call, a, b),
        libc::SYS_sendmsg => return send_vector(call, a, b),
        libc::SYS_bpf => bpf(a),
        libc::SYS_openat => return open(&path(b), c),
        libc::SYS_mkdir => change(format!("make the directory {}", path(a)), Errno::NOSPC),
        libc::SYS_mkdirat => change(format!("make the directory {}", path(b)), Errno::NOSPC),
        libc::SYS_rename => change(format!("rename {}", path(a)), Errno::IO),
        libc::SYS_renameat | libc::SYS_renameat2 => {
            change(format!("rename {}", path(b)), Errno::IO)
        }
        libc::SYS_unlink | libc::SYS_rmdir => change(format!("remove {}", path(a)), Errno::IO),
        libc::SYS_unlinkat => change(format!("remove {}", path(b)), Errno::IO),
        libc::SYS_mount => change(format!("mount {}", path(c)), Errno::PERM),
        libc::SYS_fsync | libc::SYS_fdatasync => {
            change(format!("sync {}", call.file(a)), Errno::IO)
        }
        libc::SYS_ftruncate => change(format!("truncate {}", call.file(a)), Errno::IO),
        libc::SYS_flock => read(format!("lock {}", call.file(a)), Errno::NOLCK),
        libc::SYS_write => return write(a, &call.file(a)),
        libc::SYS_setns => read(format!("enter {}", namespace(&call.file(a))), Errno::NOMEM),
        libc::SYS_unshare => change(format!("unshare {a:#x} {d}"), Errno::NOMEM),
        _ => return None,
    };
    Some(seen)
}

fn change(what: String, errno: Errno) -> Seen {
    Seen {
        what,
        errno,
        changes: true,
        message: None,
    }
}

fn read(what: String, errno: Errno) -> Seen {
    Seen {
        changes: false,
        ..change(what, errno)
    }
}

fn connect(call: &Waiting) -> Option<Seen> {
    let address = call.bytes(call.arguments[1], 8);
    let family = u16::from_ne_bytes(address.get(..2)?.try_into().ok()?);
    let is_inet = AddressFamily::from_raw(family) == AddressFamily::INET;
    let host = address.get(4..8)?;
    is_inet.then(|| {
        read(
            format!("connect to {}.{}.{}.{}", host[0], host[1], host[2], host[3]),
            Errno::NETUNREACH,
        )
    })
}

fn send_vector(call: &Waiting, socket: u64, header: u64) -> Option<Seen> {
    let header_field = |offset: usize| call.word(header + offset as u64);
    let vector = header_field(offset_of!(libc::msghdr, msg_iov));
    send(call, socket, call.word(vector))
}

fn send(call: &Waiting, socket: u64, message: u64) -> Option<Seen> {
    let socket = call.descriptor(socket)?;
    match socket_domain(socket.as_fd()).ok()? {
        AddressFamily::NETLINK => {}
        AddressFamily::INET => return Some(read("ask over HTTP".into(), Errno::NOBUFS)),
        _ => return None,
    }
    let protocol = socket_protocol(socket.as_fd())
        .ok()?
        .map_or(0, |protocol| protocol.as_raw().get());
    let header = call.bytes(message, 20);
    let half = |at: usize| Some(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?));
    let (kind, flags) = (half(4)?, half(6)?);
    let name = if protocol == 0 {
        route_message(kind)
    } else {
        None
    };
    let name = name.map_or_else(
        || format!("netlink {protocol}, message {kind:#x}"),
        str::to_owned,
    );
    let reads = protocol == 0 && kind % 4 == 2;
    let dump = if reads && flags & 0x300 == 0x300 {
        " (all)"
    } else {
        ""
    };
    Some(Seen {
        what: format!("{name}{dump}"),
        errno: Errno::NOBUFS,
        changes: !reads,
        // Elsewhere a message is a batch with a form of its own.
        message: (protocol == 0).then_some(message),
    })
}

/// linux/rtnetlink.h
fn route_message(kind: u16) -> Option<&'static str> {
    Some(match kind {
        16 => "RTM_NEWLINK",
        17 => "RTM_DELLINK",
        18 => "RTM_GETLINK",
        19 => "RTM_SETLINK",
        20 => "RTM_NEWADDR",
        21 => "RTM_DELADDR",
        22 => "RTM_GETADDR",
        24 => "RTM_NEWROUTE",
        25 => "RTM_DELROUTE",
        26 => "RTM_GETROUTE",
        28 => "RTM_NEWNEIGH",
        29 => "RTM_DELNEIGH",
        30 => "RTM_GETNEIGH",
        32 => "RTM_NEWRULE",
        33 => "RTM_DELRULE",
        34 => "RTM_GETRULE",
        36 => "RTM_NEWQDISC",
        37 => "RTM_DELQDISC",
        38 => "RTM_GETQDISC",
        44 => "RTM_NEWTFILTER",
        45 => "RTM_DELTFILTER",
        46 => "RTM_GETTFILTER",
        _ => return None,
    })
}

/// linux/bpf.h
fn bpf(command: u64) -> Seen {
    match command {
        0 => change("bpf MAP_CREATE".into(), Errno::NOMEM),
        1 => read("bpf MAP_LOOKUP_ELEM".into(), Errno::PERM),
        2 => change("bpf MAP_UPDATE_ELEM".into(), Errno::NOMEM),
        3 => change("bpf MAP_DELETE_ELEM".into(), Errno::BUSY),
        4 => read("bpf MAP_GET_NEXT_KEY".into(), Errno::PERM),
        5 => change("bpf PROG_LOAD".into(), Errno::NOMEM),
        6 => change("bpf OBJ_PIN".into(), Errno::NOSPC),
        7 => read("bpf OBJ_GET".into(), Errno::MFILE),
        15 => read("bpf OBJ_GET_INFO_BY_FD".into(), Errno::PERM),
        16 => read("bpf PROG_QUERY".into(), Errno::PERM),
        18 => change("bpf BTF_LOAD".into(), Errno::NOMEM),
        22 => change("bpf MAP_FREEZE".into(), Errno::BUSY),
        28 => change("bpf LINK_CREATE".into(), Errno::NOMEM),
        29 => change("bpf LINK_UPDATE".into(), Errno::NOMEM),
        other => read(format!("bpf command {other}"), Errno::PERM),
    }
}

/// Where the plugins keep and find things; what else they open belongs to the loader and the C library.
const OPENED: [&str; 7] = [
    "/run/",
    "/var/run/",
    "/sys/",
    "/proc/sys/",
    "/proc/thread-self/ns/",
    "/proc/self/ns/",
    "/var/log/",
];

fn open(path: &str, flags: u64) -> Option<Seen> {
    if !OPENED.iter().any(|place| path.starts_with(place)) {
        return None;
    }
    let flags = i32::try_from(flags).ok()?;
    Some(if flags & libc::O_CREAT != 0 {
        change(format!("create {path}"), Errno::NOSPC)
    } else if flags & libc::O_ACCMODE != libc::O_RDONLY {
        change(format!("open {path} to write"), Errno::ROFS)
    } else {
        read(format!("open {path}"), Errno::NFILE)
    })
}

fn write(descriptor: u64, file: &str) -> Option<Seen> {
    match descriptor {
        1 => Some(change(ANSWER.into(), Errno::PIPE)),
        _ if file.starts_with("/dev/") => None,
        _ if file.starts_with('/') => Some(change(format!("write {file}"), Errno::NOSPC)),
        _ => None,
    }
}

fn namespace(file: &str) -> &str {
    file.split(':').next().unwrap_or(file)
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
