//! Nobody who does not see a connection ends it: what says FIN or RST from outside has to be what the pod expects, and data shows
//! that the connection goes on.

use azure_vnet_abi::programs;

use crate::flows::Tuple;
use crate::harness::{Node, Verdict};
use crate::packet::{ACK, End, FIN, Packet, RST, SYN, tcp};
use crate::plan::{HZ, KEPT, NODE, REMOTE, TIMEOUTS, WEB};

const LOCAL: End = (WEB.address, KEPT);
const SERVER: End = (REMOTE, 443);
const SEEN: End = (NODE, KEPT);
/// What the pod expects next, near the end of all numbers.
const EXPECTED: u32 = 0xffff_ff00;
const WINDOW: u32 = 1 << 20;

/// One that the pod has begun, or the remote.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Begun {
    ByPod,
    ByRemote,
}

struct Connection {
    node: Node,
    begun: Begun,
}

impl Connection {
    fn new(begun: Begun) -> Self {
        let this = Self {
            node: Node::new(),
            begun,
        };
        match begun {
            Begun::ByPod => {
                this.pod(SYN, 0, b"");
                this.remote(SYN | ACK, EXPECTED - 1, b"");
            }
            Begun::ByRemote => {
                this.remote(SYN, EXPECTED - 1, b"");
                this.pod(SYN | ACK, EXPECTED, b"");
                this.remote(ACK, EXPECTED, b"");
            }
        }
        this.pod(ACK, EXPECTED, b"");
        this.is_alive(true);
        this
    }

    fn pod(&self, flags: u8, acknowledges: u32, data: &[u8]) {
        let segment = tcp(LOCAL, SERVER, flags).numbered(7, acknowledges);
        self.runs(programs::TO_UPLINK, &segment.payload(data).of(&WEB));
    }

    fn remote(&self, flags: u8, sequence: u32, data: &[u8]) {
        let to = match self.begun {
            Begun::ByPod => SEEN,
            Begun::ByRemote => LOCAL,
        };
        let segment = tcp(SERVER, to, flags).numbered(sequence, 8);
        self.runs(programs::FROM_UPLINK, &segment.payload(data));
    }

    fn runs(&self, program: &str, packet: &Packet) {
        let (verdict, _) = self.node.run(program, &packet.bytes());
        assert_eq!(verdict, Verdict::Passes, "{packet:?}");
    }

    #[track_caller]
    fn is_alive(&self, is_alive: bool) {
        let timeout = self.node.flow(Tuple::tcp(LOCAL, SERVER)).timeout;
        let seconds = if is_alive {
            TIMEOUTS.tcp_established
        } else {
            TIMEOUTS.tcp_closing
        };
        assert_eq!(timeout, (seconds + 1) * HZ, "{:?}", self.begun);
    }
}

const BOTH: [Begun; 2] = [Begun::ByPod, Begun::ByRemote];

/// One forged RST took 7,440 s to 120 s for good.
#[test]
fn what_the_pod_does_not_expect_ends_nothing() {
    for begun in BOTH {
        for flags in [RST, RST | ACK, FIN | ACK] {
            for sequence in [
                EXPECTED / 2,
                EXPECTED - 1,
                EXPECTED.wrapping_add(WINDOW + 1),
                EXPECTED ^ 0x8000_0000,
            ] {
                let connection = Connection::new(begun);
                connection.remote(flags, sequence, b"");
                connection.is_alive(true);
            }
        }
    }
}

#[test]
fn what_it_expects_does() {
    for begun in BOTH {
        for flags in [RST, RST | ACK, FIN | ACK] {
            for ahead in [0, 1, WINDOW] {
                let connection = Connection::new(begun);
                connection.remote(flags, EXPECTED.wrapping_add(ahead), b"");
                connection.is_alive(false);
            }
        }
    }
}

/// The last data of a connection may be sent again with its FIN, after the pod has acknowledged a part.
#[test]
fn a_fin_is_where_its_data_ends() {
    for begun in BOTH {
        let connection = Connection::new(begun);
        connection.remote(FIN | ACK, EXPECTED - 4, b"last");
        connection.is_alive(false);
    }
}

/// What the pod expects follows from what it acknowledged last, on the fast path as well.
#[test]
fn what_is_expected_moves_on() {
    for begun in BOTH {
        let connection = Connection::new(begun);
        connection.pod(ACK, EXPECTED.wrapping_add(5_000_000), b"");
        connection.remote(RST, EXPECTED, b"");
        connection.is_alive(true);
        connection.remote(RST, EXPECTED.wrapping_add(5_000_000), b"");
        connection.is_alive(false);
    }
}

#[test]
fn data_after_it_makes_the_connection_live_again() {
    for begun in BOTH {
        for flags in [RST, FIN | ACK] {
            for is_pods in [true, false] {
                let connection = Connection::new(begun);
                connection.remote(flags, EXPECTED, b"");
                connection.is_alive(false);
                if is_pods {
                    connection.pod(ACK, EXPECTED, b"more");
                } else {
                    connection.remote(ACK, EXPECTED, b"more");
                }
                connection.is_alive(true);
            }
        }
    }
}

/// Acknowledgments do not: every connection that ends has some after its FINs. Nor does what comes late, once both have said FIN.
#[test]
fn what_ends_a_connection_does_not() {
    for begun in BOTH {
        let connection = Connection::new(begun);
        connection.pod(FIN | ACK, EXPECTED, b"");
        connection.remote(ACK, EXPECTED, b"");
        connection.is_alive(false);
        connection.remote(FIN | ACK, EXPECTED, b"");
        connection.pod(ACK, EXPECTED.wrapping_add(1), b"");
        connection.is_alive(false);
        connection.remote(ACK, EXPECTED, b"late");
        connection.pod(ACK, EXPECTED, b"late");
        connection.is_alive(false);
    }
}

/// One side may send on for hours after the other has said FIN; it ends when both have.
#[test]
fn half_of_a_connection_lives() {
    for begun in BOTH {
        let connection = Connection::new(begun);
        connection.pod(FIN | ACK, EXPECTED, b"");
        connection.remote(ACK, EXPECTED, b"a long answer");
        connection.is_alive(true);
        connection.remote(FIN | ACK, EXPECTED.wrapping_add(13), b"");
        connection.is_alive(false);
    }
}

/// RFC 5961, section 4: a SYN in an open connection that came in is answered by the pod and changes nothing here.
#[test]
fn a_forged_syn_does_not_begin_anew() {
    let connection = Connection::new(Begun::ByRemote);
    connection.remote(SYN, 1, b"");
    connection.is_alive(true);
}

/// What a pod says of its own flow is believed: its socket is gone.
#[test]
fn a_reset_of_the_pod_is_believed() {
    for begun in BOTH {
        let connection = Connection::new(begun);
        connection.pod(RST, 0, b"");
        connection.is_alive(false);
    }
}
