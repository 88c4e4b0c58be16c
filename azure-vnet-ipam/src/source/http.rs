//! One GET over plain HTTP, with limits for time and size, and asked again when that may help.

use std::{
    io::{self, Read},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use azure_vnet_cni::foreign;

use super::Error;

/// A NIC has at most 256 ipconfigs, which the most verbose source writes in some 100 bytes each.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Pauses before asking again, each twice the one before: four questions more within 1.5 s.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_RETRIES: u32 = 4;

/// What is asked for.
#[derive(Clone)]
pub(super) struct Question {
    /// Who is asked, for messages.
    pub name: &'static str,
    /// Plain HTTP.
    pub url: String,
    /// A header that the service wants.
    pub header: Option<(&'static str, &'static str)>,
}

impl Question {
    /// The body of the answer. All of it takes at most `limit`, a second more where the last attempt begins late.
    pub(super) fn ask(&self, limit: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + limit;
        let mut pause = FIRST_PAUSE;
        for _ in 0..MAX_RETRIES {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.ask_once(left, limit) {
                Err(error) if error.is_passing() && Instant::now() + pause < deadline => {
                    thread::sleep(pause);
                    pause *= 2;
                }
                done => return done,
            }
        }
        self.ask_once(deadline.saturating_duration_since(Instant::now()), limit)
    }

    /// Waits for at most `left`, and a second at least; `limit` is for the message.
    ///
    /// The limit is kept by a thread of our own: minreq's limit starts one in a way that panics where the node can start no more.
    /// One that still waits when its time is over ends with the process.
    fn ask_once(&self, left: Duration, limit: Duration) -> Result<String, Error> {
        let failed = |cause: io::Error| self.failed(limit, cause.into());
        let (sender, receiver) = mpsc::channel();
        let question = self.clone();
        thread::Builder::new()
            .spawn(move || sender.send(question.get(limit)))
            .map_err(failed)?;
        receiver
            .recv_timeout(left.max(Duration::from_secs(1)))
            .unwrap_or_else(|_| Err(failed(io::ErrorKind::TimedOut.into())))
    }

    fn get(&self, limit: Duration) -> Result<String, Error> {
        let url = || self.url.clone();
        let mut request = minreq::get(url()).with_follow_redirects(false);
        if let Some((name, value)) = self.header {
            request = request.with_header(name, value);
        }
        let response = request
            .send_lazy()
            .map_err(|cause| self.failed(limit, cause))?;
        if response.status_code != 200 {
            return Err(Error::Status {
                name: self.name,
                url: url(),
                status: response.status_code,
            });
        }
        let mut text = String::new();
        let mut body = response.take(MAX_BYTES + 1);
        body.read_to_string(&mut text)
            .map_err(|cause| Error::Read {
                name: self.name,
                url: url(),
                cause,
            })?;
        if body.limit() == 0 {
            return Err(Error::TooLarge {
                name: self.name,
                url: url(),
            });
        }
        Ok(text)
    }

    fn failed(&self, limit: Duration, cause: minreq::Error) -> Error {
        Error::Request {
            name: self.name,
            url: self.url.clone(),
            limit,
            cause,
        }
    }

    /// The error for an answer that is not of `form`.
    pub(super) fn not(&self, form: &'static str, problem: &str) -> Error {
        Error::Form {
            name: self.name,
            url: self.url.clone(),
            form,
            problem: foreign::excerpt(problem).into_owned(),
        }
    }
}
