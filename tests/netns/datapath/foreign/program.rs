//! A small TC program of somebody else's: it counts by the address in a packet, and does the same with all of them.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use aya::maps::{Array, Map, MapData};
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use azure_vnet_testbed::raw_program::{Kind, bpf, instruction, load, pin};

/// Which address of an IPv4 packet is looked at: its place in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    Source = 26,
    Destination = 30,
}

/// Where it hangs among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    First,
    Last,
}

/// An attached program. With TCX it goes with this value, with `cls_bpf` with its link.
pub struct Foreign {
    counts: Array<MapData, u64>,
    _program: Option<SchedClassifier>,
}

/// What it counts packets of.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub address: Address,
    /// One counter for each.
    pub of: [Ipv4Addr; 2],
    /// What becomes of every packet: [`NEXT`] or [`END`].
    pub verdict: i32,
}

/// Whoever is behind decides: `TC_ACT_UNSPEC`.
pub const NEXT: i32 = -1;
/// It goes on, and whoever is behind does not get it: `TC_ACT_OK`.
pub const END: i32 = 0;

impl Foreign {
    /// Attaches one called `name` to a link of the calling thread's namespace, by TCX or as a filter.
    pub fn attach(
        name: &str,
        (link, direction): (&str, TcAttachType),
        place: Place,
        is_filter: bool,
        counted: Counted,
    ) -> io::Result<Self> {
        let map = create_map()?;
        let program = load(Kind::Tc, name, &instructions(map.as_raw_fd(), counted))?;
        let path = format!("/sys/fs/bpf/{name}");
        pin(&program, &path)?;
        let mut program = SchedClassifier::from_pin(&path).map_err(io::Error::other)?;
        std::fs::remove_file(&path)?;
        let options = if is_filter {
            // It may be there already.
            let _ = qdisc_add_clsact(link);
            TcAttachOptions::Netlink(NlOptions {
                // Ours have 10.
                priority: if place == Place::First { 5 } else { 20 },
                handle: TcHandle::new(0, 1),
                classid: None,
            })
        } else {
            TcAttachOptions::TcxOrder(match place {
                Place::First => LinkOrder::first(),
                Place::Last => LinkOrder::last(),
            })
        };
        program
            .attach_with_options(link, direction, options)
            .map_err(io::Error::other)?;
        let program = if is_filter {
            // Its end would take a filter away, and look for it in another namespace.
            std::mem::forget(program);
            None
        } else {
            Some(program)
        };
        let map = MapData::from_fd(map).map_err(io::Error::other)?;
        let counts = Map::Array(map).try_into().map_err(io::Error::other)?;
        Ok(Self {
            counts,
            _program: program,
        })
    }

    /// How many packets of the one and of the other address it saw.
    pub fn counts(&self) -> [u64; 2] {
        [0, 1].map(|index| self.counts.get(&index, 0).unwrap())
    }
}

fn instructions(map: i32, counted: Counted) -> Vec<u64> {
    let is = |index: usize| u32::from(counted.of[index]).cast_signed();
    vec![
        // r6 = the packet; r0 = the word at the address
        instruction(0xbf, 6, 1, 0, 0),
        instruction(0x20, 0, 0, 0, counted.address as i32),
        // r7 = which counter
        instruction(0xb7, 7, 0, 0, 0),
        instruction(0x16, 0, 0, 2, is(0)),
        instruction(0xb7, 7, 0, 0, 1),
        instruction(0x56, 0, 0, 9, is(1)),
        // r0 = lookup(map, &r7), which is kept below the stack pointer
        instruction(0x63, 10, 7, -4, 0),
        instruction(0xbf, 2, 10, 0, 0),
        instruction(0x07, 2, 0, 0, -4),
        instruction(0x18, 1, 1, 0, map),
        instruction(0, 0, 0, 0, 0),
        instruction(0x85, 0, 0, 0, 1),
        instruction(0x15, 0, 0, 2, 0),
        // *r0 += 1, atomically
        instruction(0xb7, 1, 0, 0, 1),
        instruction(0xdb, 0, 1, 0, 0),
        instruction(0xb7, 0, 0, 0, counted.verdict),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

fn create_map() -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // Type, bytes of a key and of a value, entries.
    let map = bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_ARRAY, 4, 8, 2])?;
    // SAFETY: the kernel has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(map) })
}
