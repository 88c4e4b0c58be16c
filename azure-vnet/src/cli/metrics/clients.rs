//! Who is being served, so that each client gets its turn: a pod that opens a thousand connections loses its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use tokio::sync::oneshot;

/// Of all clients together. Each is a task, a descriptor and some kilobytes.
const MOST: usize = 64;
/// Of one client. A browser opens six, Prometheus one, kubelet one for each probe.
const MOST_OF_ONE: usize = 4;

/// The connections that are open.
#[derive(Clone, Default)]
pub struct Clients(Rc<RefCell<Open>>);

#[derive(Default)]
struct Open {
    /// By age.
    connections: BTreeMap<u64, Connection>,
    next: u64,
}

struct Connection {
    client: IpAddr,
    end: oneshot::Sender<()>,
}

/// A connection's place among those that are open, until it is dropped.
pub struct Place {
    clients: Clients,
    number: u64,
    ended: oneshot::Receiver<()>,
}

impl Clients {
    /// A place for one connection more of `address`. If it has enough it loses its oldest; where all places are taken, the client
    /// with the most does.
    pub fn admit(&self, address: IpAddr) -> Place {
        let client = client(address);
        let mut open = self.0.borrow_mut();
        if open.of(client) >= MOST_OF_ONE {
            open.end_oldest(|it| it.client == client);
        } else if open.connections.len() >= MOST {
            let most = open.connections.values().map(|it| open.of(it.client)).max();
            let greedy = open
                .connections
                .values()
                .find(|it| Some(open.of(it.client)) == most);
            if let Some(greedy) = greedy.map(|it| it.client) {
                open.end_oldest(|it| it.client == greedy);
            }
        }
        let (end, ended) = oneshot::channel();
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, Connection { client, end });
        Place {
            clients: self.clone(),
            number,
            ended,
        }
    }
}

impl Open {
    fn of(&self, client: IpAddr) -> usize {
        let all = self.connections.values();
        all.filter(|it| it.client == client).count()
    }

    fn end_oldest(&mut self, of: impl Fn(&Connection) -> bool) {
        let mut all = self.connections.iter();
        let oldest = all.find(|(_, it)| of(it)).map(|(number, _)| *number);
        if let Some(connection) = oldest.and_then(|number| self.connections.remove(&number)) {
            // Nobody listens where the connection has just ended by itself.
            let _ = connection.end.send(());
        }
    }
}

impl Place {
    /// Waits until the place is needed for another.
    pub async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.0.borrow_mut().connections.remove(&self.number);
    }
}

/// An IPv6 host has as many addresses as it likes, of one /64.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn is_ended(place: &mut Place) -> bool {
        place.ended.try_recv().is_ok()
    }

    #[test]
    fn one_client_has_no_more_than_its_share() {
        let clients = Clients::default();
        let other = clients.admit(address(2));
        let mut places: Vec<Place> = (0..4).map(|_| clients.admit(address(1))).collect();
        assert!(!places.iter_mut().any(is_ended));
        places.push(clients.admit("::ffff:10.0.0.1".parse().unwrap()));
        assert!(is_ended(&mut places[0]) && !places[1..].iter_mut().any(is_ended));
        let v6 = |last: u16| IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, last]);
        let mut places: Vec<Place> = (0..5).map(|last| clients.admit(v6(last))).collect();
        assert!(is_ended(&mut places[0]) && !places[1..].iter_mut().any(is_ended));
        let _many: Vec<Place> = (0..1000).map(|_| clients.admit(address(1))).collect();
        let mut other = other;
        assert!(!is_ended(&mut other));
    }

    #[test]
    fn who_comes_when_all_places_are_taken_gets_that_of_the_greediest() {
        let clients = Clients::default();
        // One each of 60 clients, and then four of one more.
        let mut modest: Vec<Place> = (0..60).map(|n| clients.admit(address(n))).collect();
        let mut greedy: Vec<Place> = (0..4).map(|_| clients.admit(address(99))).collect();
        let _new = clients.admit(address(100));
        assert!(is_ended(&mut greedy[0]) && !is_ended(&mut greedy[1]));
        assert!(!modest.iter_mut().any(is_ended));
        // The end of the place that was taken away takes nobody else's.
        drop(greedy.remove(0));
        assert_eq!(clients.0.borrow().connections.len(), MOST);
        // Of equals the oldest goes.
        drop(greedy);
        let _more: Vec<Place> = (101..104).map(|n| clients.admit(address(n))).collect();
        assert!(!modest.iter_mut().any(is_ended));
        let _last = clients.admit(address(104));
        assert!(is_ended(&mut modest[0]) && !modest[1..].iter_mut().any(is_ended));
    }
}
