//! A network namespace, alone or with a mount namespace beside it, held open by file descriptors only.
//!
//! Nothing is named in the host's `/run/netns`: when the last descriptor, socket and process of a namespace goes, be it by
//! `Drop`, by a panic or by SIGKILL, the kernel removes the namespace with its links, addresses, rules and mounts.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::thread;

use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::process::Program;

/// A network namespace and, for machines and their pods, the mount namespace in which its programs run.
#[derive(Debug)]
pub struct Namespace {
    net: OwnedFd,
    mnt: Option<OwnedFd>,
    /// The first process of a machine that has pid namespaces of its own.
    init: Option<Pid>,
}

impl Namespace {
    /// A new network namespace with no links but `lo`, which is down; programs in it see the host's files.
    pub fn network() -> io::Result<Self> {
        in_thread(|| {
            leave(UnshareFlags::NEWNET)?;
            Ok(Self {
                net: own("net")?,
                mnt: None,
                init: None,
            })
        })
    }

    /// A new network namespace and a new mount namespace, which `prepare` then fills from the inside.
    pub fn machine<E: From<io::Error> + Send>(
        prepare: impl FnOnce() -> Result<(), E> + Send,
    ) -> Result<Self, E> {
        in_thread(|| {
            leave(UnshareFlags::NEWNET | UnshareFlags::NEWNS)?;
            prepare()?;
            Ok(Self {
                net: own("net")?,
                mnt: Some(own("mnt")?),
                init: None,
            })
        })
    }

    /// The namespaces of a machine's first process. Its programs are processes of the machine, too.
    pub fn of_init(init: Pid) -> io::Result<Self> {
        let open = |kind| File::open(format!("/proc/{}/ns/{kind}", init.as_raw_nonzero()));
        Ok(Self {
            net: open("net")?.into(),
            mnt: Some(open("mnt")?.into()),
            init: Some(init),
        })
    }

    /// A new network namespace that shares this one's mounts; `publish` is run inside it with a descriptor of it, to give it a path
    /// there.
    pub fn sandbox(
        &self,
        publish: impl FnOnce(BorrowedFd<'_>) -> io::Result<()> + Send,
    ) -> io::Result<Self> {
        in_thread(|| {
            leave(UnshareFlags::NEWNET)?;
            // While we see a /proc that has us: that of a machine with an init of its own does not.
            let net = own("net")?;
            self.enter_files()?;
            publish(net.as_fd())?;
            Ok(Self {
                net,
                mnt: self.mnt.as_ref().map(OwnedFd::try_clone).transpose()?,
                init: self.init,
            })
        })
    }

    /// Runs `work` on a thread inside the namespace. Sockets opened there stay in the namespace wherever they are used later.
    ///
    /// A panic of `work` goes on in the caller. A child process started by `work` is killed when `work` returns.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// A program to run inside the namespace, found by the `PATH` of the caller among the files the namespace shows.
    pub fn program(&self, name: &str) -> io::Result<Program> {
        let net = self.net.try_clone()?;
        if let Some(init) = self.init {
            // Another process has to be forked to be in another pid namespace.
            let nsenter = Program::new("nsenter")
                .args(["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--target"])
                .args([&init.as_raw_nonzero().to_string(), "--", name]);
            return Ok(nsenter.before_exec(move || join(&net, LinkNameSpaceType::Network)));
        }
        let mnt = self.mnt.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(Program::new(name).before_exec(move || {
            if let Some(mnt) = &mnt {
                join(mnt, LinkNameSpaceType::Mount)?;
            }
            join(&net, LinkNameSpaceType::Network)
        }))
    }

    /// Where other processes of root find the network namespace, for as long as this process lives: for `ip link … netns`.
    pub fn net_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// The `nsenter` options that lead into the namespace, for a person who wants to look around.
    pub fn nsenter(&self) -> String {
        let mount = self.mnt.as_ref().map_or_else(String::new, |mnt| {
            format!(
                " --mount=/proc/{}/fd/{}",
                std::process::id(),
                mnt.as_raw_fd()
            )
        });
        format!("nsenter{mount} --net={}", self.net_path())
    }

    /// Moves the calling thread, which must be a thread of its own, in here for the rest of its life.
    fn enter(&self) -> io::Result<()> {
        self.enter_files()?;
        join(&self.net, LinkNameSpaceType::Network)
    }

    fn enter_files(&self) -> io::Result<()> {
        if let Some(mnt) = &self.mnt {
            // The kernel refuses a change of mount namespace while the working directory is shared with other threads.
            leave(UnshareFlags::FS)?;
            join(mnt, LinkNameSpaceType::Mount)?;
        }
        Ok(())
    }
}

/// Runs `work` on a thread that ends with it, so that a change of namespace can never outlast its purpose.
fn in_thread<T: Send, E: From<io::Error> + Send>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place of the testbed that enters namespaces"
)]
fn join(namespace: &OwnedFd, kind: LinkNameSpaceType) -> io::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(kind)).map_err(io::Error::from)
}

fn leave(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: `unshare` is unsafe for the sake of CLONE_FILES, which would break the ownership of descriptors; no caller in this
    // file passes it.
    unsafe { unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// The calling thread's own namespace of this kind.
fn own(kind: &str) -> io::Result<OwnedFd> {
    File::open(format!("/proc/thread-self/ns/{kind}")).map(OwnedFd::from)
}
