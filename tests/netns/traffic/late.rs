//! Packets that are late for a pod that is gone stay on its node: whoever sent them, and whether they belong to a connection or not.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use azure_vnet_testbed::Azure;
use azure_vnet_testbed::connection::Connection;
use azure_vnet_testbed::namespace::Namespace;
use azure_vnet_testbed::pod::{Pod, PodSpec};

use super::{WAYS, offences};

#[test]
fn late_packets_for_a_deleted_pod_stay_on_the_node() {
    for way in WAYS {
        let azure = way.azure();
        let vm = &azure.vms[0];
        let add = |name| vm.add_pod(&way.list(), &PodSpec::named(name)).unwrap();
        let (gone, stays) = (add("gone"), add("stays"));
        let address = gone.address;
        let mut flows = Flows::open(&azure, &gone);
        gone.delete().unwrap();
        assert_eq!(offences(&azure), 0, "{way:?}");

        flows.send();
        // The node's own kernel may say at once that there is no way.
        let _ = udp(vm.namespace()).send_to(b"late", (address, 80));
        for asker in [
            stays.namespace(),
            azure.vms[1].namespace(),
            azure.on_prem.namespace(),
        ] {
            udp(asker).send_to(b"late", (address, 80)).unwrap();
        }
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(
            offences(&azure),
            0,
            "{way:?}: {:?}",
            azure.fabric.verdicts(0)
        );
        assert_eq!(azure.fabric.leaked().unwrap(), 0, "{way:?}");
    }
}

/// Flows between a pod and the internet: by TCP and UDP, begun by the pod and by the other side.
struct Flows {
    outward: Connection,
    inward: [TcpStream; 2],
    udp: UdpSocket,
    peers: [SocketAddr; 2],
}

impl Flows {
    fn open(azure: &Azure, pod: &Pod<'_>) -> Self {
        let internet = &azure.internet;
        let outward = Connection::open(pod.namespace(), internet).unwrap();

        let listener = pod.namespace().run(|| TcpListener::bind((pod.address, 0)));
        let listener = listener.unwrap().unwrap();
        let to = listener.local_addr().unwrap();
        let outside = internet.namespace().run(|| TcpStream::connect(to));
        let inward = [outside.unwrap().unwrap(), listener.accept().unwrap().0];

        let (outside, inside) = (udp(internet.namespace()), udp(pod.namespace()));
        outside
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let port = outside.local_addr().unwrap().port();
        inside.send_to(b"?", (internet.address(), port)).unwrap();
        let (_, masqueraded) = outside.recv_from(&mut [0; 8]).unwrap();
        let in_pod = SocketAddr::from((pod.address, inside.local_addr().unwrap().port()));
        outside.send_to(b"!", in_pod).unwrap();
        Self {
            outward,
            inward,
            udp: outside,
            peers: [masqueraded, in_pod],
        }
    }

    /// The outer end of each sends.
    fn send(&mut self) {
        self.outward.outside.write_all(b"late").unwrap();
        self.inward[0].write_all(b"late").unwrap();
        for peer in self.peers {
            self.udp.send_to(b"late", peer).unwrap();
        }
    }
}

fn udp(namespace: &Namespace) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    socket.unwrap().unwrap()
}
