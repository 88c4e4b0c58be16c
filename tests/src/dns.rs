//! A name whose address is the asker's own, as `whoami.akamai.net` has it: who resolves it knows what source the server saw.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::namespace::Namespace;

/// The name. Any other is answered in the same way.
pub const WHOAMI: &str = "whoami.azure.test";

/// Identifier, flags, four counts: RFC 1035 section 4.1.1.
const HEADER: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];
const CLASS_IN: [u8; 2] = [0, 1];

/// The answer to a query, or `None` for what is no query. There are addresses of version 4 and nothing else.
pub fn answer(query: &[u8], source: IpAddr) -> Option<Vec<u8>> {
    const RESPONSE: u8 = 0x80;
    let (header, rest) = query.split_at_checked(HEADER)?;
    let is_one_question = header[2] & RESPONSE == 0 && header[4..6] == [0, 1];
    let name = name_length(rest)?;
    let question = rest.get(..name + 4).filter(|_| is_one_question)?;
    let address = match source {
        IpAddr::V4(source) if question[name..] == [TYPE_A, CLASS_IN].concat() => Some(source),
        _ => None,
    };
    let mut answer = header[..2].to_vec();
    // A response, authoritative, recursion desired and available, no error.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = address {
        // The name is the one behind the header; nobody may remember the answer.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// Resolves [`WHOAMI`] by the C library, as the programs of that machine do.
pub fn resolve_whoami(machine: &Namespace) -> io::Result<Ipv4Addr> {
    let getent = machine.program("getent")?.args(["ahostsv4", WHOAMI]);
    let text = getent.checked().map_err(io::Error::other)?;
    let address = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    address.ok_or_else(|| io::Error::other(format!("strange answer {text:?}")))
}

/// The length of a name with the empty label at its end.
fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            label @ 1..64 => at += 1 + label,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 4));

    fn query(kind: u8) -> Vec<u8> {
        let header = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        [&header[..], b"\x03who\x04test\x00", &[0, kind, 0, 1]].concat()
    }

    #[test]
    fn the_address_is_the_askers() {
        let mut expected = query(1);
        expected[2..8].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 1]);
        expected.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 0, 0, 4]);
        assert_eq!(answer(&query(1), SOURCE).unwrap(), expected);
    }

    #[test]
    fn there_is_no_address_of_version_6() {
        let mut expected = query(28);
        expected[2..4].copy_from_slice(&[0x85, 0x80]);
        assert_eq!(answer(&query(28), SOURCE).unwrap(), expected);
    }

    #[test]
    fn what_is_no_query_has_no_answer() {
        let response = answer(&query(1), SOURCE).unwrap();
        for bytes in [b"who am I?", &query(1)[..20], &response[..]] {
            assert_eq!(answer(bytes, SOURCE), None, "{bytes:?}");
        }
    }
}
