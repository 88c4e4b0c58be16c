//! Metrics over HTTP, with a limit on everything that a client could ask for more of: connections ([`Clients`]), bytes of a
//! request, time, and how often the maps are read.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use azure_vnet_cni::foreign;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::super::{Failure, bridges, output};
use super::clients::{Clients, Place};
use super::collect;
use crate::netlink::Netlink;

/// Of a request's line and headers, in bytes; hyper takes no less.
const LONGEST_REQUEST: usize = 8192;
/// Of a request; Prometheus sends ten.
const MOST_HEADERS: usize = 64;
const HEADER_LIMIT: Duration = Duration::from_secs(5);
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// How long an answer is good: reading a full flow table takes a fraction of a second of CPU.
const FRESH: Duration = Duration::from_secs(1);
/// After a failed `accept` (no descriptor is free): trying on at once would be a busy loop.
const PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers until the process is stopped.
pub async fn serve(address: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::new(format!("cannot listen on {address}: {error}")))?;
    let address = listener.local_addr().unwrap_or(address);
    output::complain(&format!("serving http://{address}/metrics and /healthz"));
    let clients = Clients::default();
    let answers = Rc::new(Answers::default());
    let serving = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let place = clients.admit(peer.ip());
                    tokio::task::spawn_local(serve_one(stream, place, Rc::clone(&answers)));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::task::LocalSet::new().run_until(serving).await;
    Ok(())
}

/// Until the client has what it wants, its time is over, or its place is another's.
async fn serve_one(stream: TcpStream, mut place: Place, answers: Rc<Answers>) {
    tokio::select! {
        _ = tokio::time::timeout(CONNECTION_LIMIT, talk(stream, answers)) => {}
        () = place.ended() => {}
    }
}

async fn talk(stream: TcpStream, answers: Rc<Answers>) {
    let service = service_fn(move |request| {
        let answers = Rc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(&request).await) }
    });
    // A client that breaks the protocol or goes away ends its own connection and nothing else.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(LONGEST_REQUEST)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The last answers, as long as they are fresh. One request looks at a time; those who come meanwhile get what it finds.
#[derive(Default)]
struct Answers {
    metrics: Mutex<Option<(Instant, Bytes)>>,
    health: Mutex<Option<(Instant, StatusCode, Bytes)>>,
}

impl Answers {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response =
                response(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                let (status, body) = self.metrics().await;
                response(status, body)
            }
            "/healthz" => {
                let (status, body) = self.health().await;
                response(status, body)
            }
            _ => response(
                StatusCode::NOT_FOUND,
                "there are /metrics and /healthz\n".into(),
            ),
        }
    }

    /// On a thread of their own, so that whoever asks for the health does not wait for a full table to be read.
    async fn metrics(&self) -> (StatusCode, Bytes) {
        let mut last = self.metrics.lock().await;
        if let Some((when, text)) = &*last
            && when.elapsed() < FRESH
        {
            return (StatusCode::OK, text.clone());
        }
        match tokio::task::spawn_blocking(|| collect::all().to_string()).await {
            Ok(text) => {
                let text = Bytes::from(text);
                *last = Some((Instant::now(), text.clone()));
                (StatusCode::OK, text)
            }
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{error}\n").into(),
            ),
        }
    }

    async fn health(&self) -> (StatusCode, Bytes) {
        let mut last = self.health.lock().await;
        if let Some((when, status, text)) = &*last
            && when.elapsed() < FRESH
        {
            return (*status, text.clone());
        }
        let (status, text) = match problems().await {
            Ok(problems) if problems.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
            Ok(problems) => {
                let problems: Vec<_> = problems.iter().map(|what| foreign::line(what)).collect();
                (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
            }
            Err(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
        };
        let text = Bytes::from(text);
        *last = Some((Instant::now(), status, text.clone()));
        (status, text)
    }
}

/// What `azure-vnet status` would call wrong with the bridges.
async fn problems() -> Result<Vec<String>, Failure> {
    let netlink = Netlink::current().map_err(|error| Failure::of(&error))?;
    let bridges = bridges::survey(&netlink).await?;
    Ok(bridges
        .into_iter()
        .flat_map(|bridge| bridge.problems)
        .map(|problem| problem.what)
        .collect())
}

fn response(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}
