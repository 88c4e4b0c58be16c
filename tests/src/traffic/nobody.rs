//! Packets for an address of the pool that no pod has: the node must keep them. One without a route for the address sends them back to
//! the fabric, with the sender's source, and gets them again.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::{Asker, Row, Scenario, Seen};
use crate::Error;
use crate::azure::Azure;

/// Any port: nobody is there.
const PORT: u16 = 9;
/// How long something may take to come back.
const PATIENCE: Duration = Duration::from_millis(300);

pub(super) fn rows(scene: &Scenario<'_>) -> Vec<Row> {
    // Addresses are given out from the first one on, and a full pool is no matter of this table.
    let Some(&free) = scene.azure.vms[0].nic.pool.last() else {
        return Vec::new();
    };
    let askers = [scene.internet(), scene.other_node(), scene.first_pod()];
    let ask = |asker: &Asker<'_>| Row {
        kind: format!("{} to a free pool address", asker.name),
        from: asker.address,
        to: SocketAddrV4::new(free, PORT),
        expected: Seen::Nothing,
        seen: unanswered(scene.azure, asker, free),
    };
    askers.iter().map(ask).collect()
}

/// Sends to each address from the internet, and returns how many frames the VMs sent to the fabric that they should not have.
pub fn late_packets(azure: &Azure, addresses: &[Ipv4Addr]) -> Result<u64, Error> {
    let failed = |source| Error::Setup {
        what: "send late packets".into(),
        source,
    };
    let before = offences(azure)?;
    let socket = azure
        .internet
        .namespace()
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let socket = socket.and_then(|socket| socket).map_err(failed)?;
    for &address in addresses {
        socket.send_to(b"late", (address, PORT)).map_err(failed)?;
    }
    std::thread::sleep(PATIENCE);
    Ok(offences(azure)? - before)
}

fn unanswered(azure: &Azure, asker: &Asker<'_>, to: Ipv4Addr) -> io::Result<Seen> {
    let offences = || offences(azure).map_err(io::Error::other);
    let before = offences()?;
    let socket = asker
        .namespace
        .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    socket.connect((to, PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"is anybody there?")?;
    match socket.recv(&mut [0; 64]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
        Ok(length) => return Err(io::Error::other(format!("{length} bytes came back"))),
    }
    match offences()? - before {
        0 => Ok(Seen::Nothing),
        frames => Err(io::Error::other(format!(
            "{frames} frames came back to the fabric"
        ))),
    }
}

/// Frames of others, and packets for those who sent them.
fn offences(azure: &Azure) -> Result<u64, Error> {
    let count = |vm| {
        let verdicts = azure.fabric.verdicts(vm)?;
        Ok(verdicts.spoofed() + verdicts.returned)
    };
    (0..azure.vms.len()).map(count).sum()
}
