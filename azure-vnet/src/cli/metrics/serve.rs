//! Metrics over HTTP, with a limit on everything that a client could ask for more of: connections, bytes of a
//! request, time, and how often the maps are read.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::super::{Failure, bridges, output};
use super::collect;
use crate::netlink::Netlink;

/// Whoever comes while so many are served waits.
const CONNECTIONS: usize = 16;
/// Of a request's line and headers, in bytes; hyper takes no less.
const LONGEST_REQUEST: usize = 8192;
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
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let answers = Rc::new(Answers::default());
    let serving = async {
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answers = Rc::clone(&answers);
                    tokio::task::spawn_local(async move {
                        let _ = tokio::time::timeout(CONNECTION_LIMIT, talk(stream, answers)).await;
                        drop(permit);
                    });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    tokio::task::LocalSet::new().run_until(serving).await;
    Ok(())
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
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The last answers, as long as they are fresh.
#[derive(Default)]
struct Answers {
    metrics: RefCell<Option<(Instant, Bytes)>>,
    health: RefCell<Option<(Instant, StatusCode, Bytes)>>,
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
            "/metrics" => response(StatusCode::OK, self.metrics()),
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

    fn metrics(&self) -> Bytes {
        if let Some((when, text)) = &*self.metrics.borrow()
            && when.elapsed() < FRESH
        {
            return text.clone();
        }
        let text = Bytes::from(collect::all().to_string());
        *self.metrics.borrow_mut() = Some((Instant::now(), text.clone()));
        text
    }

    async fn health(&self) -> (StatusCode, Bytes) {
        if let Some((when, status, text)) = &*self.health.borrow()
            && when.elapsed() < FRESH
        {
            return (*status, text.clone());
        }
        let (status, text) = match problems().await {
            Ok(problems) if problems.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
            Ok(problems) => (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n"),
            Err(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
        };
        let text = Bytes::from(text);
        *self.health.borrow_mut() = Some((Instant::now(), status, text.clone()));
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
