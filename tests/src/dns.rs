//! As much of DNS as it takes for one name to resolve: what 168.63.129.16 says to a VM's resolver.

use std::net::Ipv4Addr;

use crate::address_plan::INTERNET;

/// The one name there is.
pub const NAME: &str = "service.azure-vnet.example";
/// What it resolves to.
pub const ADDRESS: Ipv4Addr = INTERNET[0];

/// Identifier, flags, and how many questions, answers, authorities and additions follow: RFC 1035, section 4.1.1.
const HEADER: usize = 12;
const A: u16 = 1;

/// The answer to a query with one question. Whatever is none is not answered.
pub(crate) fn answer(query: &[u8]) -> Option<Vec<u8>> {
    const RESPONSE: u8 = 0x80;
    const NO_SUCH_NAME: u8 = 3;
    let (header, rest) = query.split_at_checked(HEADER)?;
    if header[2] & RESPONSE != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let (name, after) = read_name(rest)?;
    let kind = u16::from_be_bytes([*rest.get(after)?, *rest.get(after + 1)?]);
    let question = rest.get(..after + 4)?;

    let is_known = name.eq_ignore_ascii_case(NAME);
    let has_address = is_known && kind == A;
    let code = if is_known { 0 } else { NO_SUCH_NAME };
    // Recursion was desired, and is available.
    let mut answer = vec![header[0], header[1], RESPONSE | 1, RESPONSE | code];
    answer.extend([0, 1, 0, u8::from(has_address), 0, 0, 0, 0]);
    answer.extend(question);
    if has_address {
        // The name in the question, A, IN, for a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(ADDRESS.octets());
    }
    Some(answer)
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
