//! Which port is tried first: a keyed hash of the flow (RFC 6056), so that no pod can tell from its own ports which ones others
//! get. The kernel's `bpf_get_prandom_u32` is linear: sixty ports of one pod tell all that follow.

use azure_vnet_abi::{FlowKey, Uplink};

/// SipHash-2-4 (Aumasson and Bernstein, 2012) over the twenty bytes of the flow's key and of when it begins: the same ends that connect
/// again get another port, which the remote's `TIME_WAIT` does not know.
#[inline(never)]
pub fn hash(key: &FlowKey, uplink: &Uplink, now: u32) -> u64 {
    const LENGTH: u64 = 20;

    let [first, second] = uplink.secret.0;
    let mut state = State {
        a: first ^ 0x736f_6d65_7073_6575,
        b: second ^ 0x646f_7261_6e64_6f6d,
        c: first ^ 0x6c79_6765_6e65_7261,
        d: second ^ 0x7465_6462_7974_6573,
    };
    state.take(u64::from(key.source.raw()) | u64::from(key.destination.raw()) << 32);
    state.take(
        u64::from(key.source_port.raw())
            | u64::from(key.destination_port.raw()) << 16
            | u64::from(key.protocol) << 32,
    );
    state.take(u64::from(now) | LENGTH << 56);
    state.c ^= 0xff;
    for _ in 0..4 {
        state.round();
    }
    state.a ^ state.b ^ state.c ^ state.d
}

struct State {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl State {
    /// Eight bytes of the message.
    #[inline(always)]
    fn take(&mut self, word: u64) {
        self.d ^= word;
        self.round();
        self.round();
        self.a ^= word;
    }

    #[inline(always)]
    fn round(&mut self) {
        self.a = self.a.wrapping_add(self.b);
        self.c = self.c.wrapping_add(self.d);
        self.b = self.b.rotate_left(13) ^ self.a;
        self.d = self.d.rotate_left(16) ^ self.c;
        self.a = self.a.rotate_left(32).wrapping_add(self.d);
        self.c = self.c.wrapping_add(self.b);
        self.b = self.b.rotate_left(17) ^ self.c;
        self.d = self.d.rotate_left(21) ^ self.a;
        self.c = self.c.rotate_left(32);
    }
}
