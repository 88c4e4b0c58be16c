//! Small eBPF programs of somebody else's, written as instructions: no compiler is needed for them.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};

/// `struct bpf_insn`.
#[must_use]
pub fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(destination) << 8
        | u64::from(source) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

/// The first fields of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    version_and_flags: [u32; 2],
    name: [u8; 16],
}

/// Which hooks a program is for; `enum bpf_prog_type` of linux/bpf.h.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Traffic control.
    Tc = 3,
    /// XDP.
    Xdp = 6,
}

/// Loads one, called `name` (up to 15 bytes).
///
/// # Errors
/// What the kernel says, its verifier included.
pub fn load(kind: Kind, name: &str, instructions: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_long = 5;
    let mut named = [0; 16];
    let length = name.len().min(named.len() - 1);
    named[..length].copy_from_slice(&name.as_bytes()[..length]);
    let load = Load {
        kind: kind as u32,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log: [0; 2],
        version_and_flags: [0; 2],
        name: named,
    };
    let program = bpf(BPF_PROG_LOAD, &load)?;
    // SAFETY: the kernel has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// The fields of `union bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct Pin {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// Pins it at a path of a BPF file system, for `tc` and `ip`.
///
/// # Errors
/// What the kernel says.
pub fn pin(program: &OwnedFd, path: &str) -> io::Result<()> {
    const BPF_OBJ_PIN: libc::c_long = 6;
    let path = std::ffi::CString::new(path)?;
    let pin = Pin {
        path: path.as_ptr().expose_provenance() as u64,
        descriptor: program.as_fd().as_raw_fd().cast_unsigned(),
        flags: 0,
    };
    bpf(BPF_OBJ_PIN, &pin).map(drop)
}

/// The system call of that name.
///
/// # Errors
/// What the kernel says.
pub fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are those of the command, and what they point to lives as long as the caller has it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
