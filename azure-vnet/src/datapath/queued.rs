//! Programs that netfilter asks about packets (`NFQUEUE`), as intrusion prevention systems and some engines of network policies have it do
//! (decision 37).

/// The queues of this namespace that somebody answers for, one a line; not there where the kernel has none.
const QUEUES: &str = "/proc/net/netfilter/nfnetlink_queue";

/// Whether there is one. It may want to see every packet, and what the programs look at does not tell a packet that was with it: on a
/// CPU that has nothing else to do, the packet that was noted last is the same one.
pub fn is_anybody_asked() -> bool {
    std::fs::read(QUEUES).is_ok_and(|queues| !queues.is_empty())
}
