//! Names on the node resolve: a name server of /etc/resolv.conf answers. Asked by a question of our own, since the C library's waits
//! for as long as that file says, and says less.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::datapath::foreign::{
    self, Line,
    traversal::{End, Probe, ends},
};
use crate::health::{Check, Finding};

const RESOLVERS: &str = "/etc/resolv.conf";
/// As many as the C library asks.
const MOST: usize = 3;
const LIMIT: Duration = Duration::from_secs(2);
const PORT: u16 = 53;
/// systemd-resolved's own.
const STUB: [u8; 3] = [127, 0, 0];

/// What a server said.
enum Answer {
    /// That it knows the name, or that there is none.
    Useful,
    /// A DNS error code.
    Refused(u8),
    /// Nothing, and why.
    Silent(String),
}

/// Asks all servers at once.
pub async fn check() -> Finding {
    let text = std::fs::read_to_string(RESOLVERS).unwrap_or_default();
    let servers = servers(&text);
    if servers.is_empty() {
        return Finding::problem(
            Check::Names,
            format!("{RESOLVERS} names no server: the node resolves no names"),
            "have the NIC's manager write it again (resolvectl status, or see the check nic_manager)",
        );
    }
    let answers = join_all(servers.iter().map(|server| ask(*server))).await;
    let wrong: Vec<(IpAddr, String)> = servers
        .iter()
        .zip(&answers)
        .filter_map(|(server, answer)| match answer {
            Answer::Useful => None,
            Answer::Refused(code) => Some((
                *server,
                format!("{server} answers with the DNS error {code}"),
            )),
            Answer::Silent(why) => Some((*server, format!("{server} does not answer ({why})"))),
        })
        .collect();
    let Some((first, _)) = wrong.first() else {
        return Finding::ok(Check::Names, "the name servers of the node answer");
    };
    let said: Vec<&str> = wrong.iter().map(|(_, said)| said.as_str()).collect();
    let fix = fix(*first);
    if wrong.len() == servers.len() {
        let found = format!("the node resolves no names: {}", said.join(", "));
        Finding::problem(Check::Names, found, fix)
    } else {
        let found = format!("names resolve late on the node: {}", said.join(", "));
        Finding::warning(Check::Names, found, fix)
    }
}

fn servers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        let address = words.next().filter(|_| is_server)?;
        // An IPv6 address may name its link behind a percent sign.
        address.split('%').next()?.parse().ok()
    });
    named.take(MOST).collect()
}

async fn ask(server: IpAddr) -> Answer {
    match timeout(LIMIT, exchange(server)).await {
        // NOERROR and NXDOMAIN.
        Ok(Ok(0 | 3)) => Answer::Useful,
        Ok(Ok(code)) => Answer::Refused(code),
        Ok(Err(error)) => Answer::Silent(error.to_string()),
        Err(_) => Answer::Silent(format!("within {} s", LIMIT.as_secs())),
    }
}

/// The error code of its answer.
async fn exchange(server: IpAddr) -> std::io::Result<u8> {
    let any = match server {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(SocketAddr::new(server, PORT)).await?;
    socket.send(&question()).await?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await?;
        // The identifier, and that it is an answer; the socket takes only what comes from the server.
        if length >= 4 && answer[..2] == question()[..2] && answer[2] & 0x80 != 0 {
            return Ok(answer[3] & 0x0f);
        }
    }
}

/// The address of azure.com, which any server knows or knows not to be there: RFC 1035, section 4.1.
fn question() -> Vec<u8> {
    // Identifier, recursion desired, one question.
    let mut question = vec![0x61, 0x7a, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["azure", "com"] {
        question.push(u8::try_from(label.len()).unwrap_or_default());
        question.extend(label.as_bytes());
    }
    // The root; type A, class IN.
    question.extend([0, 0, 1, 0, 1]);
    question
}

/// A rule of iptables that drops the question, or what else there is to do.
fn fix(server: IpAddr) -> String {
    let IpAddr::V4(address) = server else {
        return format!("see whether a firewall drops UDP port 53 to {server}");
    };
    if address.octets().starts_with(&STUB) {
        return "systemctl restart systemd-resolved; resolvectl status".to_owned();
    }
    let lines = foreign::iptables().unwrap_or_default();
    let mut programs: Vec<&str> = lines.iter().map(|line| line.program).collect();
    programs.dedup();
    for program in programs {
        let of_program: Vec<&Line> = lines.iter().filter(|it| it.program == program).collect();
        let probe = Probe {
            protocol: Some("udp"),
            comes_in: None,
            goes_out: "",
            source: Ipv4Addr::UNSPECIFIED,
            destination: address,
        };
        for end in ends(&of_program, "filter", "OUTPUT", probe) {
            if let End::Dropped(line) = end
                && line.text.starts_with("-A ")
            {
                return format!("{} {}", line.tool(), line.text.replacen("-A ", "-D ", 1));
            }
        }
    }
    format!(
        "see whether {RESOLVERS} names the right server (Azure's is 168.63.129.16), or a firewall drops UDP port 53 to {server}: nft list ruleset, iptables -S, the NSG"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch x\nnameserver 168.63.129.16\nnameserver\tfe80::1%eth0\nnameserver x\n\
                    nameserver 10.0.0.1\nnameserver 10.0.0.2\n";
        let read: Vec<String> = servers(text).iter().map(IpAddr::to_string).collect();
        assert_eq!(read, ["168.63.129.16", "fe80::1", "10.0.0.1"]);
    }
}
