//! Metrics over HTTP, with a limit on everything that a client could ask for more of: connections ([`Clients`]), bytes of a
//! request, time, and how often the maps are read.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
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

use super::super::{Failure, doctor, output};
use super::clients::{Clients, Place};
use super::collect;
use crate::health::Finding;

/// Of a request's line and headers, in bytes; hyper takes no less.
const LONGEST_REQUEST: usize = 8192;
/// Of a request; Prometheus sends ten.
const MOST_HEADERS: usize = 64;
const HEADER_LIMIT: Duration = Duration::from_secs(5);
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// How long an answer is good: reading a full flow table takes a fraction of a second of CPU.
const FRESH: Duration = Duration::from_secs(1);
/// How long the checks' are: they run programs and ask name servers.
const CHECKED: Duration = Duration::from_secs(5);
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

/// What the checks found, or why they could not be asked.
type Found = Result<Arc<[Finding]>, String>;

/// The last answers, as long as they are fresh. One request looks at a time; those who come meanwhile get what it finds.
#[derive(Default)]
struct Answers {
    metrics: Mutex<Option<(Instant, Bytes)>>,
    findings: Mutex<Option<(Instant, Found)>>,
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
        // What cannot be looked at is said by /healthz.
        let findings = self.findings().await.unwrap_or_default();
        let mut last = self.metrics.lock().await;
        if let Some((when, text)) = &*last
            && when.elapsed() < FRESH
        {
            return (StatusCode::OK, text.clone());
        }
        match tokio::task::spawn_blocking(move || collect::all(&findings).to_string()).await {
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
        let said = |text: Vec<String>| Bytes::from(text.join("\n") + "\n");
        match self.findings().await {
            Ok(findings) => {
                let problems = findings.iter().filter(|finding| finding.is_problem());
                let problems: Vec<String> = problems
                    .map(|it| {
                        foreign::line(&format!("{}: {}", it.check.name(), it.found)).into_owned()
                    })
                    .collect();
                if problems.is_empty() {
                    (StatusCode::OK, Bytes::from("ok\n"))
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, said(problems))
                }
            }
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, said(vec![why])),
        }
    }

    /// What the checks find, or found some seconds ago. One look at a time: whoever asks meanwhile waits for the same.
    async fn findings(&self) -> Found {
        let mut last = self.findings.lock().await;
        if let Some((when, findings)) = &*last
            && when.elapsed() < CHECKED
        {
            return findings.clone();
        }
        let found = examine().await.map(Arc::from);
        *last = Some((Instant::now(), found.clone()));
        found
    }
}

/// The checks, beside the loop that answers: some of them run programs, and wait.
async fn examine() -> Result<Vec<Finding>, String> {
    let asked = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let found = runtime.block_on(doctor::examine_from_anywhere());
        found.map_err(|failure| failure.to_string())
    });
    asked.await.unwrap_or_else(|error| Err(error.to_string()))
}

fn response(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}
