//! What the rules that are in place do with a destination, as iptables lists them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::super::{Judged, NetfilterError, Rules};
use super::layout::{self, own};
use super::listed::{Listed, ListedPart};

/// Asks the rules of `bridge` for what its pods send.
pub fn judge(bridge: &str, destination: Ipv4Addr) -> Result<Judged, NetfilterError> {
    // Nothing of pods is asked for, so it does not matter which of both it is.
    let mut parts = layout::lists(Rules::IptablesAlone, bridge);
    parts.retain(|part| part.program == "iptables");
    let listed = Listed::read(&parts, bridge)?;
    let mut tables = listed.parts.iter();
    let (nat, filter) = (tables.next(), tables.next());
    let missing = || {
        let missing = format!("there is no chain {}", own(bridge, "OWN"));
        NetfilterError::of("iptables-save")(std::io::Error::other(missing))
    };
    nat.zip(filter)
        .and_then(|(nat, filter)| find(bridge, nat, filter, destination))
        .ok_or_else(missing)
}

/// The first rule without a condition but the destination.
fn find(
    bridge: &str,
    nat: &ListedPart,
    filter: &ListedPart,
    destination: Ipv4Addr,
) -> Option<Judged> {
    let rules = filter.rules(&own(bridge, "OWN")).iter();
    rules
        .map(|rule| rule.split(' ').collect())
        .find_map(|words: Vec<&str>| {
            let (range, target) = match words[..] {
                ["-d", range, _, target] => (range, target),
                [_, target] => ("0.0.0.0/0", target),
                _ => return None,
            };
            let net: Ipv4Net = range.parse().ok()?;
            if !net.contains(&destination) {
                return None;
            }
            let range = range.to_owned();
            Some(match target {
                "RETURN" => Judged::Keep(range),
                "DROP" => Judged::Drop(range),
                chain if chain == own(bridge, "OUT") => Judged::Masquerade(translated(bridge, nat)),
                chain => Judged::ByPort(range, format!("iptables -S {chain}")),
            })
        })
}

fn translated(bridge: &str, nat: &ListedPart) -> Option<Ipv4Addr> {
    let rules = nat.rules(&own(bridge, "NAT")).iter();
    let mut addresses = rules.filter_map(|rule| {
        rule.split(' ')
            .skip_while(|word| *word != "--to-source")
            .nth(1)
    });
    addresses.find_map(|address| address.parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_first_rule_for_the_destination_decides() {
        let text = [
            "*nat\n:AZV-azure0-NAT - [0:0]\n-A AZV-azure0-NAT -j SNAT --to-source 10.0.0.4\nCOMMIT\n",
            "*filter\n:AZV-azure0-OWN - [0:0]\n\
             -A AZV-azure0-OWN -d 10.0.0.5/32 -j RETURN\n\
             -A AZV-azure0-OWN -m conntrack --ctdir REPLY -j RETURN\n\
             -A AZV-azure0-OWN -d 168.63.129.16/32 -g AZV-azure0-O1\n\
             -A AZV-azure0-OWN -d 203.0.113.0/24 -j DROP\n\
             -A AZV-azure0-OWN -d 10.9.0.0/16 -g AZV-azure0-OUT\n\
             -A AZV-azure0-OWN -d 10.0.0.0/8 -j RETURN\n\
             -A AZV-azure0-OWN -g AZV-azure0-OUT\nCOMMIT\n",
        ];
        let mut parts = layout::lists(Rules::IptablesAlone, "azure0");
        parts.truncate(2);
        let listed = Listed::parse(&parts, "azure0", &text.map(String::from));
        let of = |destination: &str| {
            let (nat, filter) = (&listed.parts[0], &listed.parts[1]);
            find("azure0", nat, filter, destination.parse().unwrap()).unwrap()
        };
        let out = Judged::Masquerade(Some(Ipv4Addr::new(10, 0, 0, 4)));
        assert_eq!(of("10.1.1.1"), Judged::Keep("10.0.0.0/8".into()));
        assert_eq!(of("203.0.113.9"), Judged::Drop("203.0.113.0/24".into()));
        assert_eq!(of("10.9.1.1"), out);
        assert_eq!(of("192.0.2.1"), out);
        let by_port = Judged::ByPort(
            "168.63.129.16/32".into(),
            "iptables -S AZV-azure0-O1".into(),
        );
        assert_eq!(of("168.63.129.16"), by_port);
    }
}
