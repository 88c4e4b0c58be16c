//! What an administrator, or kube-proxy, does with `conntrack -D`.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

use crate::namespace::Namespace;

/// Deletes all that connection tracking knows in a namespace.
pub fn forget(namespace: &Namespace) -> io::Result<()> {
    /// A `struct nlmsghdr` of 20 bytes and a `struct nfgenmsg`: `IPCTNL_MSG_CT_DELETE` that names no entry, to be answered.
    const DELETE_ALL: [u16; 10] = [20, 0, 0x0102, 0x0005, 0, 0, 0, 0, 0, 0];
    /// Where the answer has its error number: behind its header.
    const ERRNO: std::ops::Range<usize> = 16..20;

    namespace.run(|| {
        let socket = socket(
            AddressFamily::NETLINK,
            SocketType::RAW,
            Some(netlink::NETFILTER),
        )?;
        let message = DELETE_ALL.map(u16::to_ne_bytes).concat();
        send(&socket, &message, SendFlags::empty())?;
        let mut answer = [0; 64];
        recv(&socket, &mut answer[..], RecvFlags::empty())?;
        let errno = answer[ERRNO].try_into().map_err(io::Error::other)?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        }
    })?
}
