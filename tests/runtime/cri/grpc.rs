//! gRPC, one call on a connection of its own: an HTTP/2 request with five bytes before each message and the status in the trailers.
//!
//! With `h2` for the one and `prost` for the other that is all there is to it. The ready-made choices cost more on every machine that
//! tests: tonic three times the crates, `k8s-cri` a build script that wants protoc, Python stubs a virtual environment and an index.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request};
use prost::Message;
use tokio::runtime::Builder;
use tokio::time::timeout;

/// What precedes a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no.
    #[error("{message} (gRPC status {status})")]
    Refused { status: String, message: String },
    /// The server is not there, or took too long.
    #[error("no answer: {0}")]
    Transport(#[from] io::Error),
}

/// Calls a method and waits for the answer, at most for `limit`.
pub fn call<A: Message + Default>(
    stream: UnixStream,
    path: &str,
    request: &impl Message,
    limit: Duration,
) -> Result<A, Error> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let exchange = async { timeout(limit, exchange(stream, path, request)).await? };
    let (status, mut message) = runtime.block_on(exchange)?;
    let field = |name| {
        let value = status.get(name).map(HeaderValue::as_bytes);
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    if field("grpc-status") != "0" {
        return Err(Error::Refused {
            status: field("grpc-status"),
            message: field("grpc-message"),
        });
    }
    message.advance(PREFIX.min(message.len()));
    Ok(A::decode(message).map_err(io::Error::other)?)
}

/// Sends the message and returns the status with what came before it.
async fn exchange(
    stream: UnixStream,
    path: &str,
    message: &impl Message,
) -> io::Result<(HeaderMap, Bytes)> {
    stream.set_nonblocking(true)?;
    let stream = tokio::net::UnixStream::from_std(stream)?;
    let (client, connection) = h2::client::handshake(stream)
        .await
        .map_err(io::Error::other)?;
    // Ends with the runtime, which lives as long as this one call.
    tokio::spawn(connection);

    let request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(io::Error::other)?;
    let mut framed = BytesMut::with_capacity(PREFIX + message.encoded_len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).map_err(io::Error::other)?);
    message.encode(&mut framed).map_err(io::Error::other)?;

    answer(client, request, framed.freeze())
        .await
        .map_err(io::Error::other)
}

async fn answer(
    client: h2::client::SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
) -> Result<(HeaderMap, Bytes), h2::Error> {
    let (response, mut sender) = client.ready().await?.send_request(request, false)?;
    sender.send_data(body, true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut message = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        message.put(chunk);
    }
    // A refusal without a message has its status in the one and only head.
    let status = body.trailers().await?.unwrap_or(head.headers);
    Ok((status, message.freeze()))
}
