//! What the rules that are in place do with a destination, as nft lists them.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::super::{Judged, NetfilterError};
use super::policy::CLOSED;
use super::{PROGRAM, installed, table};

/// Asks the table of `bridge` that has the policy.
pub fn judge(bridge: &str, destination: Ipv4Addr) -> Result<Judged, NetfilterError> {
    let objects = installed::listing("ip", bridge)?;
    if objects.is_empty() {
        let missing = format!("there is no table ip {}", table(bridge));
        return Err(NetfilterError::of(PROGRAM)(std::io::Error::other(missing)));
    }
    Ok(match find(&objects, "destinations", destination) {
        None => Judged::Masquerade(snat(&objects)),
        Some((range, verdict)) => match chain(&verdict) {
            Some(chain) if chain == CLOSED => Judged::Drop(range),
            Some(chain) => Judged::ByPort(
                range,
                format!("nft list chain ip {} {chain}", table(bridge)),
            ),
            None => Judged::Keep(range),
        },
    })
}

/// The element of a set or map that holds `destination`, with its value.
fn find(objects: &[Value], name: &str, destination: Ipv4Addr) -> Option<(String, Value)> {
    let mut sets = (objects.iter()).flat_map(|object| [&object["set"], &object["map"]]);
    let set = sets.find(|set| set["name"] == name)?;
    set["elem"].as_array()?.iter().find_map(|element| {
        let pair = element.as_array();
        let key = pair.and_then(|pair| pair.first()).unwrap_or(element);
        let (first, last) = bounds(key)?;
        let value = pair
            .and_then(|pair| pair.get(1))
            .cloned()
            .unwrap_or(Value::Null);
        let range = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        (first..=last)
            .contains(&destination)
            .then_some((range, value))
    })
}

/// An address, a prefix or a range (libnftables-json(5)).
fn bounds(key: &Value) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let address = |value: &Value| value.as_str()?.parse::<Ipv4Addr>().ok();
    if let Some(both) = key["range"].as_array() {
        return Some((address(both.first()?)?, address(both.get(1)?)?));
    }
    if let Some(network) = address(&key["prefix"]["addr"]) {
        let length = u8::try_from(key["prefix"]["len"].as_u64()?).ok()?;
        let prefix = ipnet::Ipv4Net::new(network, length).ok()?;
        return Some((prefix.network(), prefix.broadcast()));
    }
    address(key).map(|address| (address, address))
}

fn chain(verdict: &Value) -> Option<String> {
    ["jump", "goto"]
        .iter()
        .find_map(|kind| Some(verdict[*kind]["target"].as_str()?.to_owned()))
}

fn snat(objects: &[Value]) -> Option<Ipv4Addr> {
    let expressions = (objects.iter())
        .filter_map(|object| object["rule"]["expr"].as_array())
        .flatten();
    let mut addresses = expressions.filter_map(|expression| expression["snat"]["addr"].as_str());
    addresses.find_map(|address| address.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn elements_of_every_form_are_found() {
        let listing = [
            json!({"map": {"name": "destinations", "elem": [
                [{"prefix": {"addr": "10.0.0.0", "len": 8}}, {"accept": null}],
                ["168.63.129.16", {"accept": null}],
                [{"range": ["192.0.2.1", "192.0.2.9"]}, {"jump": {"target": "to_3"}}],
            ]}}),
            json!({"rule": {"expr": [{"snat": {"addr": "10.0.0.4"}}]}}),
        ];
        let of = |text: &str| {
            find(
                &listing,
                "destinations",
                text.parse().unwrap_or(Ipv4Addr::LOCALHOST),
            )
        };
        assert_eq!(
            of("10.255.0.1"),
            Some(("10.0.0.0-10.255.255.255".into(), json!({"accept": null})))
        );
        assert_eq!(
            of("168.63.129.16"),
            Some(("168.63.129.16".into(), json!({"accept": null})))
        );
        assert_eq!(
            of("192.0.2.9").and_then(|(_, verdict)| chain(&verdict)),
            Some("to_3".into())
        );
        assert_eq!(of("192.0.2.10"), None);
        assert_eq!(snat(&listing), Some(Ipv4Addr::new(10, 0, 0, 4)));
    }
}
