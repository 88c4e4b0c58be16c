//! The few lines of HTTP/1.1 that the platform's services need: GET, one request per connection, and a log of who asked.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::namespace::Namespace;
use crate::service::Service;

/// How long a caller may be silent, and the size of a request's head: more is not sent by anybody who means well.
const SILENCE: Duration = Duration::from_secs(2);
const MAX_HEAD: usize = 8192;
/// The header by which Azure's clients mark a request, and by which a test finds it in the log.
pub const REQUEST_ID: &str = "x-ms-client-request-id";

/// A request as a service sees it.
#[derive(Debug)]
pub struct Request {
    /// Where it came from, which is how Azure's services know the VM.
    pub source: Ipv4Addr,
    /// Path and query.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The media type.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Response {
    /// A refusal with a word of explanation.
    pub fn refuse(status: u16, why: &str) -> Self {
        Self {
            status,
            content_type: "text/plain",
            body: format!("{why}\n"),
        }
    }
}

/// A line of a service's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who asked.
    pub source: Ipv4Addr,
    /// For what.
    pub target: String,
    /// The status it was answered with.
    pub status: u16,
    /// The caller's `x-ms-client-request-id`, if it sent one.
    pub request_id: Option<String>,
}

/// A running HTTP service.
#[derive(Debug)]
pub struct Server {
    log: Arc<Mutex<Vec<Access>>>,
    _service: Service,
}

impl Server {
    /// Serves port 80 of an address of the namespace. Each connection has a thread of its own, so that a slow caller delays nobody.
    pub fn start(
        namespace: &Namespace,
        address: Ipv4Addr,
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = namespace.run(|| TcpListener::bind(SocketAddrV4::new(address, 80)))??;
        let log = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new((answer, Arc::clone(&log)));
        let service = Service::start(vec![listener], move |listener| {
            let Ok((stream, SocketAddr::V4(peer))) = listener.accept() else {
                return;
            };
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                // A caller that breaks off gets no answer, and is not in the log.
                let _ = serve(stream, *peer.ip(), &shared.0, &shared.1);
            });
        })?;
        Ok(Self {
            log,
            _service: service,
        })
    }

    /// All requests so far, oldest first.
    pub fn log(&self) -> Vec<Access> {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Asks for `http://address/target` from inside a namespace; returns status and body.
pub fn get(
    namespace: &Namespace,
    address: Ipv4Addr,
    target: &str,
    headers: &[(&str, &str)],
    limit: Duration,
) -> io::Result<(u16, String)> {
    let peer = SocketAddr::from((address, 80));
    let mut stream = namespace.run(|| TcpStream::connect_timeout(&peer, limit))??;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let headers = headers.iter().fold(String::new(), |text, (name, value)| {
        text + &format!("{name}: {value}\r\n")
    });
    stream.write_all(
        format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n")
            .as_bytes(),
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok());
    let (status, (_, body)) = status
        .zip(text.split_once("\r\n\r\n"))
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

fn serve(
    mut stream: TcpStream,
    source: Ipv4Addr,
    answer: impl Fn(&Request) -> Response,
    log: &Mutex<Vec<Access>>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let head = read_head(&mut stream)?;
    let (response, access) = match parse(&head, source) {
        Some(request) => {
            let response = answer(&request);
            let request_id = request.headers.get(REQUEST_ID).cloned();
            (response, Some((request.target, request_id)))
        }
        None => (Response::refuse(400, "only GET is understood"), None),
    };
    let (target, request_id) = access.unwrap_or_default();
    log.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Access {
            source,
            target,
            status: response.status,
            request_id,
        });
    let Response {
        status,
        content_type,
        body,
    } = response;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n",
        reason(status)
    );
    stream.write_all((head + &body).as_bytes())
}

fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 || head.len() + length > MAX_HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.extend(&buffer[..length]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn parse(head: &str, source: Ipv4Addr) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let target = lines
        .next()?
        .strip_prefix("GET ")?
        .strip_suffix(" HTTP/1.1")?
        .to_owned();
    let headers = lines.filter_map(|line| line.split_once(':'));
    let headers = headers
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(Request {
        source,
        target,
        headers,
    })
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        _ => "Not Found",
    }
}
