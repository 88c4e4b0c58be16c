//! Who has which address, as a runtime knows it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;

#[derive(Default)]
pub struct Ledger(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    held: BTreeMap<Ipv4Addr, String>,
    allocations: usize,
    most: usize,
}

impl Ledger {
    /// An ADD answered with this address; an error is the other pod that has it.
    pub fn grant(&self, address: Ipv4Addr, container: &str) -> Result<(), String> {
        let mut pages = self.0.lock().unwrap();
        pages.allocations += 1;
        if let Some(other) = pages.held.insert(address, container.to_owned()) {
            return Err(other);
        }
        pages.most = pages.most.max(pages.held.len());
        Ok(())
    }

    /// A DEL of this container begins.
    pub fn give_back(&self, container: &str) {
        self.0
            .lock()
            .unwrap()
            .held
            .retain(|_, holder| holder != container);
    }

    /// No pod lives any more.
    pub fn clear(&self) {
        self.0.lock().unwrap().held.clear();
    }

    pub fn address_of(&self, container: &str) -> Option<Ipv4Addr> {
        let pages = self.0.lock().unwrap();
        let mut held = pages.held.iter();
        held.find_map(|(address, holder)| (holder == container).then_some(*address))
    }

    /// How many ADDs were answered with an address.
    pub fn allocations(&self) -> usize {
        self.0.lock().unwrap().allocations
    }

    /// How many addresses were held at the same time, at most.
    pub fn most(&self) -> usize {
        self.0.lock().unwrap().most
    }
}
