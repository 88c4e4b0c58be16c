//! `masquerade.timeouts`.

use serde_json::Value;

use super::{Problems, number};
use crate::masquerade::Timeouts;

/// Reads the object; what is not in it stays as it is by default.
pub fn read(value: &Value, problems: &mut Problems) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(sent) = value.as_object() else {
        problems.note("timeouts", format!("{value} is not an object"));
        return timeouts;
    };
    let mut fields = [
        ("tcpOpening", &mut timeouts.tcp_opening),
        ("tcpEstablished", &mut timeouts.tcp_established),
        ("tcpClosing", &mut timeouts.tcp_closing),
        ("udp", &mut timeouts.udp),
        ("icmp", &mut timeouts.icmp),
    ];
    for (key, value) in sent.iter().filter(|(_, value)| !value.is_null()) {
        let path = format!("timeouts.{key}");
        let field = fields
            .iter_mut()
            .find(|(name, _)| name.eq_ignore_ascii_case(key));
        let Some((_, field)) = field else {
            let known =
                "known are \"tcpOpening\", \"tcpEstablished\", \"tcpClosing\", \"udp\", \"icmp\"";
            problems.note(&path, known);
            continue;
        };
        let (least, most) = (Timeouts::LEAST, Timeouts::MOST);
        match number(value, least..=most) {
            Some(seconds) => **field = seconds,
            None => problems.note(
                &path,
                format!("{value} is not a number of seconds from {least} to {most}"),
            ),
        }
    }
    timeouts
}
