//! `masquerade.rules`.

use serde_json::{Map, Value};

use super::{Problems, prefix};
use crate::masquerade::{Action, Rule, Which};

const KEYS: [&str; 4] = ["to", "proto", "port", "action"];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Reads the list.
pub fn read(value: &Value, problems: &mut Problems) -> Vec<Rule> {
    let Some(items) = value.as_array() else {
        problems.note("rules", format!("{value} is not a list"));
        return Vec::new();
    };
    let mut rules = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("rules[{index}]");
        match item.as_object() {
            Some(sent) => rules.extend(rule(sent, &path, problems)),
            None => problems.note(&path, format!("{item} is not an object")),
        }
    }
    rules
}

/// One object; without `proto` a `port` is one of TCP and one of UDP.
fn rule(sent: &Map<String, Value>, path: &str, problems: &mut Problems) -> Vec<Rule> {
    let before = problems.0.len();
    // Ignored, a misspelt key would make the rule one about more.
    for key in sent
        .keys()
        .filter(|key| !KEYS.iter().any(|known| known.eq_ignore_ascii_case(key)))
    {
        problems.note(
            &format!("{path}.{key}"),
            "a rule has \"to\", \"proto\", \"port\", \"action\"",
        );
    }
    let member = |key| azure_vnet_cni::keys::get(sent, key).filter(|value| !value.is_null());
    let mut required = |key: &'static str| {
        if member(key).is_none() {
            problems.note(&format!("{path}.{key}"), "missing");
        }
        member(key)
    };
    let (to, action) = (required("to"), required("action"));
    let to = to.and_then(|to| prefix(to, &format!("{path}.to"), problems));
    let action = action.and_then(|value| self::action(value, path, problems));
    let protocol = member("proto").and_then(|value| protocol(value, path, problems));
    let ports = member("port").and_then(|value| ports(value, path, problems));
    if let (Some(protocol), Some(_)) = (protocol, ports)
        && !matches!(protocol, TCP | UDP)
    {
        problems.note(
            &format!("{path}.port"),
            "only \"tcp\" and \"udp\" have ports",
        );
    }
    let (Some(to), Some(action), true) = (to, action, problems.0.len() == before) else {
        return Vec::new();
    };
    let which = match (protocol, ports) {
        (None, None) => vec![Which::All],
        (Some(protocol), None) => vec![Which::Protocol(protocol)],
        (Some(protocol), Some((first, last))) => vec![Which::Ports(protocol, first, last)],
        (None, Some((first, last))) => [TCP, UDP]
            .map(|protocol| Which::Ports(protocol, first, last))
            .into(),
    };
    let rule = |which| Rule { to, which, action };
    which.into_iter().map(rule).collect()
}

fn action(value: &Value, path: &str, problems: &mut Problems) -> Option<Action> {
    match value.as_str() {
        Some("exempt") => Some(Action::Exempt),
        Some("masquerade") => Some(Action::Masquerade),
        Some("drop") => Some(Action::Drop),
        _ => {
            let what = format!("{value}: one of \"exempt\", \"masquerade\", \"drop\"");
            problems.note(&format!("{path}.action"), what);
            None
        }
    }
}

fn protocol(value: &Value, path: &str, problems: &mut Problems) -> Option<u8> {
    let number = match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("tcp") => Some(TCP),
        Some("udp") => Some(UDP),
        Some("icmp") => Some(1),
        Some(text) => text.parse().ok(),
        None => value.as_u64().and_then(|number| number.try_into().ok()),
    };
    if number.is_none() {
        let what = format!("{value}: \"tcp\", \"udp\", \"icmp\" or a number up to 255");
        problems.note(&format!("{path}.proto"), what);
    }
    number
}

/// A number, or a text with one or two.
fn ports(value: &Value, path: &str, problems: &mut Problems) -> Option<(u16, u16)> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let port = |text: &str| text.trim().parse().ok().filter(|port| *port > 0);
    let range = port(first)
        .zip(port(last))
        .filter(|(first, last)| first <= last);
    if range.is_none() {
        let what = format!("{value}: a port such as 80 or a range such as \"8000-8999\"");
        problems.note(&format!("{path}.port"), what);
    }
    range
}
