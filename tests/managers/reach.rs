//! Who reaches whom, asked of all at the same time, so that what is off the network costs one limit and not many.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;

use azure_vnet_testbed::address_plan::WIRESERVER;
use azure_vnet_testbed::exchange::{ask, ping};
use azure_vnet_testbed::host::REPORT_PORT;
use azure_vnet_testbed::icmp::Witness;
use azure_vnet_testbed::pod::Pod;
use azure_vnet_testbed::reporter::Reporter;
use azure_vnet_testbed::{Azure, Vm};
use socket2::Type;

/// Those who are asked.
pub struct Neighbourhood<'a> {
    azure: &'a Azure,
    /// Another VM of the subnet.
    other: &'a Vm,
    _reporter: Reporter,
}

impl<'a> Neighbourhood<'a> {
    pub fn new(azure: &'a Azure) -> Self {
        let other = &azure.vms[0];
        let addresses = [other.nic.primary];
        let reporter = Reporter::start(other.namespace(), &addresses, REPORT_PORT).unwrap();
        Self {
            azure,
            other,
            _reporter: reporter,
        }
    }

    /// What does not work of what a node, which has this address, and its pods must be able to do.
    pub fn unreachable(&self, node: &Vm, primary: Ipv4Addr, pods: &[Pod<'_>]) -> Vec<String> {
        let mut questions = self.of_node(node, primary);
        for pod in pods {
            questions.extend(self.of_pod(pod, node, primary));
        }
        thread::scope(|scope| {
            let asked: Vec<_> = questions
                .into_iter()
                .map(|question| (question.what, question.expected, scope.spawn(question.ask)))
                .collect();
            asked
                .into_iter()
                .filter_map(|(what, expected, seen)| match seen.join().unwrap() {
                    Ok(seen) if seen == expected => None,
                    Ok(seen) => Some(format!("{what} as {seen}")),
                    Err(_) => Some(what),
                })
                .collect()
        })
    }

    fn of_node<'q>(&self, node: &'q Vm, primary: Ipv4Addr) -> Vec<Question<'q>> {
        let inside = node.namespace();
        [
            ("internet", Type::STREAM, self.internet()),
            ("other VM", Type::STREAM, self.other_vm()),
            (
                "168.63.129.16",
                Type::DGRAM,
                SocketAddrV4::new(WIRESERVER, 53),
            ),
        ]
        .map(|(what, kind, to)| Question {
            what: format!("node → {what}"),
            expected: primary,
            ask: Box::new(move || ask(kind, inside, None, to)),
        })
        .into()
    }

    fn of_pod<'q>(
        &'q self,
        pod: &'q Pod<'_>,
        node: &'q Vm,
        primary: Ipv4Addr,
    ) -> Vec<Question<'q>> {
        let (inside, address) = (pod.namespace(), pod.address);
        let peered = &self.azure.peered;
        let out = [
            ("internet", primary, self.internet()),
            ("other VM", address, self.other_vm()),
        ]
        .map(|(what, expected, to)| Question {
            what: format!("pod → {what}"),
            expected,
            ask: Box::new(move || ask(Type::STREAM, inside, None, to)),
        });
        let other = (self.other.nic.primary, self.other.namespace());
        let within = [
            ("node", (primary, node.namespace())),
            ("other VM", other),
            ("peered VNet", (peered.address(), peered.namespace())),
        ]
        .map(|(what, (expected, from))| Question {
            what: format!("{what} → pod"),
            expected,
            ask: Box::new(move || ping(from, address, &Witness::start(inside)?)),
        });
        out.into_iter().chain(within).collect()
    }

    fn internet(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.azure.internet.address(), REPORT_PORT)
    }

    fn other_vm(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.other.nic.primary, REPORT_PORT)
    }
}

/// Something that is asked, and the source that the other side must see.
struct Question<'a> {
    what: String,
    expected: Ipv4Addr,
    ask: Ask<'a>,
}

type Ask<'a> = Box<dyn FnOnce() -> io::Result<Ipv4Addr> + Send + 'a>;
