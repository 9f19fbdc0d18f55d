//! Where a process is connected from, and how its connection ended.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use runtime::listen::Scheme;

/// A connection, as far as records tell of it.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) remote_addr: SocketAddr,
    pub(crate) scheme: Scheme,
    end: OnceLock<End>,
    /// Whether its tunnels are refused, so that nobody reaches the processes on it.
    refused: AtomicBool,
}

/// Why a process is not connected any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// For people.
    pub(crate) reason: &'static str,
    /// This replica asked for it, and the process is expected to connect again at once, here or elsewhere.
    pub(crate) renews: bool,
}

impl End {
    /// It ended by itself: an agent that was killed, or a network that broke.
    pub(crate) const LOST: Self = Self {
        reason: "the connection was closed by the agent or by the network",
        renews: false,
    };
    /// Its pings were not answered.
    pub(crate) const SILENT: Self = Self {
        reason: "HTTP/2 keepalive timed out",
        renews: false,
    };
    /// This replica asked the agent to leave.
    pub(crate) const LEFT: Self = Self {
        reason: "this replica asked the agent to connect elsewhere: it drains, has more agents than others, or the connection was old",
        renews: true,
    };
    /// A stream came to its age, and the agent opens another at once.
    pub(crate) const RENEWED: Self = Self {
        reason: "its stream was not opened again at this replica",
        renews: true,
    };
    /// A load balancer makes a connection for each call, and this one was a registration's.
    pub(crate) const ONE_CALL: Self = Self {
        reason: "the load balancer closed the connection of a call that was over",
        renews: true,
    };
    /// The token.
    pub(crate) const REVOKED: Self = Self {
        reason: "the token is no longer valid",
        renews: false,
    };
    /// The agent said so.
    pub(crate) const UNREGISTERED: Self = Self {
        reason: "the agent stopped",
        renews: false,
    };
    /// The process of the replica ends.
    pub(crate) const REPLICA_STOPS: Self = Self {
        reason: "this replica stopped",
        renews: false,
    };
    /// A load balancer keeps the connection.
    pub(crate) const SILENT_PROCESS: Self = Self {
        reason: "the agent has not registered again in time",
        renews: false,
    };
}

impl Origin {
    pub(crate) fn new(remote_addr: SocketAddr, scheme: Scheme) -> Arc<Self> {
        Arc::new(Self {
            remote_addr,
            scheme,
            end: OnceLock::new(),
            refused: AtomicBool::new(false),
        })
    }

    /// Of those whose connection nobody knows.
    pub(crate) fn unknown() -> Arc<Self> {
        Self::new(SocketAddr::from(([0, 0, 0, 0], 0)), Scheme::Grpc)
    }

    /// The connection ends for this reason. The first one counts.
    pub(crate) fn ends(&self, end: End) {
        // A later reason is a consequence of the first.
        let _ = self.end.set(end);
    }

    /// Whether its tunnels are refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Notes whether its tunnels are refused; says whether that is another answer.
    pub(super) fn set_refused(&self, refused: bool) -> bool {
        self.refused.swap(refused, Ordering::Relaxed) != refused
    }

    /// How it ended.
    pub(crate) fn end(&self) -> End {
        self.end.get().copied().unwrap_or(End::LOST)
    }

    /// The remote address, for records.
    pub(crate) fn address(&self) -> String {
        match self.remote_addr.port() {
            0 => String::new(),
            _ => self.remote_addr.to_string(),
        }
    }

    /// The scheme, for records.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.scheme {
            Scheme::Grpc | Scheme::Http => "grpc",
            Scheme::Grpcs | Scheme::Https => "grpcs",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        }
    }
}
