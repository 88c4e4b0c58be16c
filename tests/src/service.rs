//! A thread that serves sockets until it is told to stop.

use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};

/// A running service. Dropping it stops the thread and closes its sockets, which lets their namespace go.
#[derive(Debug)]
pub struct Service {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Calls `serve` with the index of each socket that has something to read, one after the other.
    ///
    /// The sockets may belong to any namespace: a socket stays where it was opened, whichever thread uses it.
    pub fn start<S: AsFd + Send + 'static>(
        sockets: Vec<S>,
        serve: impl Fn(&S) + Send + 'static,
    ) -> io::Result<Self> {
        let (stopped, stop) = pipe()?;
        let thread = thread::Builder::new()
            .name("testbed-service".into())
            .spawn(move || {
                while let Ok(ready) = wait(&sockets, &stopped) {
                    let Some(ready) = ready else { break };
                    for index in ready {
                        serve(&sockets[index]);
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the service has been printed; what it did not serve has failed its caller.
            let _ = thread.join();
        }
    }
}

/// The sockets that are readable, or `None` when the pipe's other end was closed.
fn wait<S: AsFd>(sockets: &[S], stopped: &PipeReader) -> io::Result<Option<Vec<usize>>> {
    let mut polled: Vec<_> = sockets
        .iter()
        .map(|socket| PollFd::new(socket, PollFlags::IN))
        .collect();
    polled.push(PollFd::new(stopped, PollFlags::IN));
    poll(&mut polled, None)?;
    if polled.pop().is_some_and(|stop| !stop.revents().is_empty()) {
        return Ok(None);
    }
    Ok(Some(
        polled
            .iter()
            .enumerate()
            .filter(|(_, socket)| !socket.revents().is_empty())
            .map(|(index, _)| index)
            .collect(),
    ))
}
