//! A pinned hash map, read bucket by bucket (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6). Key by key it would take two system calls an entry,
//! and would start from the beginning wherever the last key that was read is gone by then.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::Pod;
use aya::maps::{MapData, MapError};

use super::bpffs::Pins;
use super::ebpf::EbpfError;

/// Entries of one system call; a bucket has to fit. Buckets are as many as entries, so hardly any has more than ten.
const ENTRIES: u32 = 4096;

/// `enum bpf_cmd` of linux/bpf.h.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// What `union bpf_attr` of linux/bpf.h holds for the batch commands.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Gives `each` every entry of the hash map `name`: those that stay while it is read once, others once or not at all. A map that is
/// not pinned has none.
pub fn for_each<K: Pod, V: Pod>(
    pins: &Pins,
    name: &'static str,
    each: impl FnMut(K, V),
) -> Result<(), EbpfError> {
    let path = pins.map(name);
    if !path.exists() {
        return Ok(());
    }
    let failed = |source| EbpfError::map(name, source);
    let map = MapData::from_pin(&path).map_err(failed)?;
    let info = map.info().map_err(failed)?;
    let sizes = (info.key_size() as usize, info.value_size() as usize);
    if sizes != (size_of::<K>(), size_of::<V>()) {
        return Err(EbpfError::Incompatible { path });
    }
    read(map.fd().as_fd(), each).map_err(|io_error| {
        let call = "bpf_map_lookup_batch";
        failed(MapError::SyscallError(aya::sys::SyscallError {
            call,
            io_error,
        }))
    })
}

/// The keys of the map are `K`, its values `V`.
fn read<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut each: impl FnMut(K, V)) -> io::Result<()> {
    let mut keys: Vec<K> = Vec::with_capacity(ENTRIES as usize);
    let mut values: Vec<V> = Vec::with_capacity(ENTRIES as usize);
    // A hash map counts its buckets.
    let mut place = 0_u32;
    let mut begun = false;
    loop {
        let place = (&raw mut place).expose_provenance() as u64;
        let mut attributes = Attributes {
            in_batch: if begun { place } else { 0 },
            out_batch: place,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: ENTRIES,
            map_fd: map.as_raw_fd().cast_unsigned(),
            ..Attributes::default()
        };
        let outcome = look_up(&mut attributes);
        let is_last = match &outcome {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(_) => return outcome,
        };
        let count = attributes.count.min(ENTRIES) as usize;
        // SAFETY: the kernel has written `count` keys and values of just these sizes, there is room for as many, and they are plain
        // data.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        keys.drain(..)
            .zip(values.drain(..))
            .for_each(|(key, value)| each(key, value));
        if is_last {
            return Ok(());
        }
        begun = true;
    }
}

fn look_up(attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: the attributes are those of the command; their pointers lead to a bucket number and to room for `count` keys and
    // values of the map's sizes, all alive and nobody else's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_LOOKUP_BATCH,
            std::ptr::from_mut(attributes),
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
