//! rtnetlink as this plugin uses it: one [`Netlink`] handle per network namespace, typed requests
//! that say what they do and to what, a limit on every wait, and errors that keep the errno.
//!
//! A change is a value ([`Request`]) made by the module of its kind (`link`, `address`, `route`,
//! `neighbour`) and sent with [`Netlink::run`], or several at once with [`Netlink::run_all`].

pub mod address;
mod default_route;
mod error;
pub mod filter;
pub mod forwarding;
pub mod link;
mod mac;
pub mod neighbour;
pub mod netfilter;
pub mod route;
pub mod rule;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

pub use error::{NetlinkError, gone_is_fine};
pub use mac::MacAddress;

use crate::netns::{NetNs, NetNsError};

/// How long one request may take. The kernel answers in microseconds unless another process holds
/// the RTNL lock (a namespace being torn down may hold it for seconds).
const LIMIT: Duration = Duration::from_secs(10);

/// A connection to the rtnetlink of one network namespace.
///
/// Needs a running tokio runtime; the connection's task lives as long as the last clone.
///
/// A message that cannot be sent (`ENOBUFS`: the kernel is short of memory) ends the connection, and
/// with it that request and those under way. The next request opens it again where that can be done
/// without entering a namespace: whoever has to undo something must not fail for the same reason.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Arc<Mutex<rtnetlink::Handle>>,
    /// The namespace is the process's own.
    is_own: bool,
    requests: Arc<AtomicU64>,
}

/// One change to the kernel's network configuration, not yet sent.
#[derive(Debug, Clone)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
    label: Label,
}

/// What a request does, and to what: the first half of every error message.
#[derive(Debug, Clone)]
struct Label {
    operation: &'static str,
    subject: String,
}

impl Request {
    fn new(
        operation: &'static str,
        subject: impl Into<String>,
        message: RouteNetlinkMessage,
    ) -> Self {
        Self {
            message,
            flags: 0,
            label: Label {
                operation,
                subject: subject.into(),
            },
        }
    }

    /// Adds `NLM_F_*` flags to the ones every request has (`REQUEST`, `ACK`).
    fn flags(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }
}

impl Netlink {
    /// Opens a connection to the namespace of the calling thread, which is to be the process's own.
    pub fn current() -> Result<Self, NetlinkError> {
        let handle = open().map_err(NetlinkError::Open)?;
        Ok(Self {
            handle: Arc::new(Mutex::new(handle)),
            is_own: true,
            requests: Arc::default(),
        })
    }

    /// Opens a connection to `netns`. The namespace is entered once, by a short-lived thread; a
    /// netlink socket stays in the namespace it was opened in.
    pub fn in_netns(netns: &NetNs) -> Result<Self, NetNsError> {
        let runtime = tokio::runtime::Handle::current();
        let opened = netns.run_in(move || {
            let _guard = runtime.enter();
            Self::current()
        })?;
        let opened = opened.map_err(|source| NetNsError::Netlink {
            path: netns.path().to_owned(),
            source,
        })?;
        Ok(Self {
            is_own: false,
            ..opened
        })
    }

    /// How many requests this connection has carried: the cost of an ADD, for logs and tests.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Sends one change and waits for the kernel's acknowledgement.
    pub async fn run(&self, request: Request) -> Result<(), NetlinkError> {
        let Request {
            message,
            flags,
            label,
        } = request;
        let answer = self.send(message, NLM_F_ACK | flags, &label)?;
        acknowledged(answer, &label).await
    }

    /// Sends several changes without waiting between them; the kernel carries them out in order.
    /// All are attempted; the first failure is the one returned.
    pub async fn run_all(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Result<(), NetlinkError> {
        self.run_each(requests).await.into_iter().collect()
    }

    /// Like [`Self::run_all`], with the outcome of each.
    pub async fn run_each(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> Vec<Result<(), NetlinkError>> {
        let sent: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let flags = NLM_F_ACK | request.flags;
                let answer = self.send(request.message, flags, &request.label);
                (answer, request.label)
            })
            .collect();
        let mut outcomes = Vec::with_capacity(sent.len());
        for (answer, label) in sent {
            outcomes.push(match answer {
                Ok(answer) => acknowledged(answer, &label).await,
                Err(error) => Err(error),
            });
        }
        outcomes
    }

    /// Asks for one object; `None` when the kernel says that it does not exist.
    async fn get(
        &self,
        message: RouteNetlinkMessage,
        label: Label,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let answer = self.send(message, 0, &label)?;
        match within_limit(first(answer), &label).await? {
            Some(NetlinkPayload::InnerMessage(found)) => Ok(Some(found)),
            Some(NetlinkPayload::Error(refusal)) => match NetlinkError::refused(&label, &refusal) {
                error if error.is_gone() => Ok(None),
                error => Err(error),
            },
            _ => Err(NetlinkError::closed(&label)),
        }
    }

    /// Asks for a whole table, again and again until it did not change while it was read
    /// (`NLM_F_DUMP_INTR`): on a busy node with many links that may take a while. The kernel allows
    /// one dump at a time on a socket: two must not be joined (`EBUSY`).
    async fn dump(
        &self,
        message: RouteNetlinkMessage,
        label: Label,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            let answer = self.send(message.clone(), NLM_F_DUMP, &label)?;
            if let Some(entries) = within_limit(collect(answer, &label), &label).await?? {
                return Ok(entries);
            }
        }
        Err(NetlinkError::interrupted(&label))
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn send(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        label: &Label,
    ) -> Result<BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        let mut packet = NetlinkMessage::from(message);
        packet.header.flags = NLM_F_REQUEST | flags;
        self.count();
        let mut handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = handle.request(packet.clone());
        if answer.is_err() && self.is_own {
            tracing::warn!("the netlink connection broke; opening it again");
            *handle = open().map_err(NetlinkError::Open)?;
            answer = handle.request(packet);
        }
        Ok(answer.map_err(|_| NetlinkError::closed(label))?.boxed())
    }
}

/// A connection to the namespace of the calling thread.
fn open() -> io::Result<rtnetlink::Handle> {
    let (mut connection, handle, _unsolicited) = rtnetlink::new_connection()?;
    // Explicit acknowledgements: without them a closed connection looks like success.
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    explain_refusals(connection.socket_mut())?;
    filter_dumps(connection.socket_mut());
    tokio::spawn(connection);
    Ok(handle)
}

type Answer = BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// Asks the kernel to say in words why it refuses (`NETLINK_EXT_ACK`, kernel 4.12).
fn explain_refusals(socket: &mut impl rtnetlink::sys::AsyncSocket) -> io::Result<()> {
    socket.socket_mut().set_ext_ack(true)?;
    // Only the header of our request comes back, so that the words are at a known place.
    socket.socket_mut().set_cap_ack(true)
}

/// Asks the kernel to list no more than what is asked for (`NETLINK_GET_STRICT_CHK`, kernel 4.20). An older one lists all, and
/// whoever asks leaves out the rest.
fn filter_dumps(socket: &mut impl rtnetlink::sys::AsyncSocket) {
    let _ = socket.socket_mut().set_netlink_get_strict_chk(true);
}

async fn within_limit<T>(
    answer: impl Future<Output = T>,
    label: &Label,
) -> Result<T, NetlinkError> {
    tokio::time::timeout(LIMIT, answer)
        .await
        .map_err(|_| NetlinkError::timed_out(label, LIMIT))
}

async fn first(mut answer: Answer) -> Option<NetlinkPayload<RouteNetlinkMessage>> {
    answer.next().await.map(|message| message.payload)
}

async fn acknowledged(answer: Answer, label: &Label) -> Result<(), NetlinkError> {
    match within_limit(first(answer), label).await? {
        Some(NetlinkPayload::Error(ack)) if ack.code.is_none() => Ok(()),
        Some(NetlinkPayload::Error(refusal)) => Err(NetlinkError::refused(label, &refusal)),
        _ => Err(NetlinkError::closed(label)),
    }
}

/// Reads a dump to its end; `None` when it was interrupted and has to be asked again.
async fn collect(
    mut answer: Answer,
    label: &Label,
) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
    let mut entries = Vec::new();
    let mut consistent = true;
    while let Some(message) = answer.next().await {
        consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
        match message.payload {
            NetlinkPayload::InnerMessage(entry) => entries.push(entry),
            NetlinkPayload::Done(_) => return Ok(consistent.then_some(entries)),
            NetlinkPayload::Overrun(_) => return Ok(None),
            NetlinkPayload::Error(refusal) => return Err(NetlinkError::refused(label, &refusal)),
            _ => {}
        }
    }
    Err(NetlinkError::closed(label))
}
