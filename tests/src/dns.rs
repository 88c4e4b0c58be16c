//! As much of DNS as it takes for two names to resolve: what 168.63.129.16 says to a VM's resolver.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::address_plan::INTERNET;
use crate::namespace::Namespace;

/// A name that means the same to everybody.
pub const NAME: &str = "service.azure-vnet.example";
/// What it resolves to.
pub const ADDRESS: Ipv4Addr = INTERNET[0];
/// A name whose address is the asker's own, as `whoami.akamai.net` has it: who resolves it knows what source the server saw.
pub const WHOAMI: &str = "whoami.azure-vnet.example";

/// Identifier, flags, and how many questions, answers, authorities and additions follow: RFC 1035, section 4.1.1.
const HEADER: usize = 12;
const A: u16 = 1;

/// Resolves [`WHOAMI`] by the C library, as the programs of that machine do.
pub fn resolve_whoami(machine: &Namespace) -> io::Result<Ipv4Addr> {
    let getent = machine.program("getent")?.args(["ahostsv4", WHOAMI]);
    let text = getent.checked().map_err(io::Error::other)?;
    let address = text.split_whitespace().next();
    address
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::other(format!("strange answer {text:?}")))
}

/// The answer to a query with one question from this source. Whatever is none is not answered.
pub(crate) fn answer(query: &[u8], source: IpAddr) -> Option<Vec<u8>> {
    const RESPONSE: u8 = 0x80;
    const NO_SUCH_NAME: u8 = 3;
    let (header, rest) = query.split_at_checked(HEADER)?;
    if header[2] & RESPONSE != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let (name, after) = read_name(rest)?;
    let kind = u16::from_be_bytes([*rest.get(after)?, *rest.get(after + 1)?]);
    let question = rest.get(..after + 4)?;

    let known = address_of(&name, source);
    let address = known.filter(|_| kind == A);
    let code = if known.is_some() { 0 } else { NO_SUCH_NAME };
    // Recursion was desired, and is available.
    let mut answer = vec![header[0], header[1], RESPONSE | 1, RESPONSE | code];
    answer.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = address {
        // The name in the question, A, IN, for no time, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

fn address_of(name: &str, source: IpAddr) -> Option<Ipv4Addr> {
    match source {
        IpAddr::V4(source) if name.eq_ignore_ascii_case(WHOAMI) => Some(source),
        _ => name.eq_ignore_ascii_case(NAME).then_some(ADDRESS),
    }
}

/// The name that the bytes begin with, and where it ends. Queries compress nothing.
fn read_name(bytes: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 0);
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = bytes.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 4));

    fn answer(query: &[u8]) -> Option<Vec<u8>> {
        super::answer(query, SOURCE)
    }

    fn query(name: &str, kind: u8) -> Vec<u8> {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, kind, 0, 1]);
        query
    }

    #[test]
    fn the_name_has_one_address() {
        let answer = answer(&query(NAME, 1)).unwrap();
        assert_eq!(answer[..8], [7, 9, 0x81, 0x80, 0, 1, 0, 1]);
        assert!(answer.ends_with(&ADDRESS.octets()));
    }

    #[test]
    fn the_askers_name_has_the_askers_address() {
        let mut expected = query(WHOAMI, 1);
        expected[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
        expected.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 0, 0, 4]);
        assert_eq!(answer(&query(WHOAMI, 1)).unwrap(), expected);
    }

    #[test]
    fn no_other_kind_and_no_other_name() {
        assert_eq!(
            answer(&query(NAME, 28)).unwrap()[2..8],
            [0x81, 0x80, 0, 1, 0, 0]
        );
        assert_eq!(
            answer(&query("a.b", 1)).unwrap()[2..8],
            [0x81, 0x83, 0, 1, 0, 0]
        );
    }

    #[test]
    fn what_is_no_query_is_not_answered() {
        assert_eq!(answer(b"who am I?"), None);
        assert_eq!(answer(&answer(&query(NAME, 1)).unwrap()), None);
        assert_eq!(answer(&query(NAME, 1)[..20]), None);
    }
}
