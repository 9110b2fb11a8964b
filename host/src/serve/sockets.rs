//! Listening sockets that come from outside (socket activation, or the process before this one), and
//! their way to the process after this one.
//!
//! The sockets themselves are handed on, not their addresses: connections that wait in the kernel's
//! queue are lost to nobody.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};

use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use stent::http::{self, HttpError, Settings};

/// Tells the new process whose place it takes.
const REPLACES: &str = "LISTEN_REPLACES";
/// The first file descriptor that is passed on, by systemd's convention.
const FIRST: i32 = 3;

/// What was passed to this process: first the public socket, then the admin one.
#[derive(Default)]
pub struct Inherited {
    public: Option<TcpListener>,
    admin: Option<TcpListener>,
    /// The running process that made this one.
    pub replaces: Option<u32>,
}

impl Inherited {
    /// Call it before there are threads: the variables are taken out of the environment.
    pub fn take() -> anyhow::Result<Self> {
        let replaces = std::env::var(REPLACES)
            .ok()
            .and_then(|pid| pid.parse().ok());
        let mut passed = listenfd::ListenFd::from_env();
        let mut next = |at| match at < passed.len() {
            true => passed.take_tcp_listener(at).with_context(|| {
                format!(
                    "the passed file descriptor {} is no TCP socket",
                    FIRST + at as i32
                )
            }),
            false => Ok(None),
        };
        Ok(Self {
            public: next(0)?,
            admin: next(1)?,
            replaces,
        })
    }

    /// Both listeners: the ones that were passed, or new ones.
    pub fn open(self, settings: &Settings) -> Result<Sockets, HttpError> {
        let one = |key, passed: Option<TcpListener>, address| match passed {
            Some(listener) => http::adopt(key, address, listener),
            None => http::listen(key, address, settings.backlog),
        };
        Ok(Sockets {
            public: one("server.listen", self.public, settings.listen)?,
            admin: one("server.admin", self.admin, settings.admin)?,
        })
    }
}

pub struct Sockets {
    pub public: tokio::net::TcpListener,
    pub admin: tokio::net::TcpListener,
}

impl Sockets {
    /// Copies to hand on: the doors take the sockets themselves.
    pub fn spare(&self) -> io::Result<Spare> {
        Ok(Spare {
            public: self.public.as_fd().try_clone_to_owned()?,
            admin: self.admin.as_fd().try_clone_to_owned()?,
        })
    }
}

/// The sockets, for the next process.
pub struct Spare {
    public: OwnedFd,
    admin: OwnedFd,
}

impl Spare {
    /// Starts this program again, as it is on disk now, with the same arguments and both sockets.
    pub fn start_next(&self) -> anyhow::Result<Child> {
        let mut args = std::env::args_os();
        let program = args.next().context("this process does not know its name")?;
        let mut command = Command::new(program);
        command
            .args(args)
            .env("LISTEN_FDS", "2")
            .env(REPLACES, std::process::id().to_string())
            // They speak of this process; without them the next one takes what it is given.
            .env_remove("LISTEN_PID")
            .env_remove("WATCHDOG_PID");
        let map = |fd: &OwnedFd, child_fd| {
            Ok::<_, io::Error>(FdMapping {
                parent_fd: fd.try_clone()?,
                child_fd,
            })
        };
        command.fd_mappings(vec![
            map(&self.public, FIRST)?,
            map(&self.admin, FIRST + 1)?,
        ])?;
        Ok(command.spawn()?)
    }
}

/// Tells the process that made this one that it may go.
pub fn relieve(pid: u32) {
    let process = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let Some(process) = process else { return };
    match rustix::process::kill_process(process, rustix::process::Signal::QUIT) {
        Ok(()) => tracing::info!(pid, "the process before this one is told to finish"),
        Err(error) => tracing::warn!(pid, %error, "the process before this one was not told"),
    }
}
