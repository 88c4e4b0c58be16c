//! Ports of the masquerade range that others on the node use.

/// The only element of the `reserved` map: a bit for each port, set where no new flow may have it. 8 KiB.
///
/// The programs read it while user space writes it; a port's bit is then the old one or the new one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReservedPorts {
    pub(crate) words: [u64; Self::WORDS],
}

impl ReservedPorts {
    /// Ports of a word.
    const BITS: u16 = 64;
    const WORDS: usize = (u16::MAX as usize + 1) / Self::BITS as usize;

    /// No port.
    pub const NONE: Self = Self {
        words: [0; Self::WORDS],
    };

    /// Whether the port is reserved.
    #[inline]
    pub const fn contains(&self, port: u16) -> bool {
        self.words[Self::word(port)] & Self::bit(port) != 0
    }

    /// Reserves a port.
    #[inline]
    pub const fn insert(&mut self, port: u16) {
        self.words[Self::word(port)] |= Self::bit(port);
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    const fn word(port: u16) -> usize {
        (port / Self::BITS) as usize
    }

    const fn bit(port: u16) -> u64 {
        1 << (port % Self::BITS)
    }
}
