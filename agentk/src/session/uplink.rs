//! Gives out connections for new calls.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::Connection;

/// The connection of each line.
type Current = Vec<Option<Connection>>;

/// Gives out connections of all lines, or of one. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    current: watch::Receiver<Current>,
    only: Option<usize>,
}

/// Where a line publishes its connection.
#[derive(Debug, Clone)]
pub(super) struct Place {
    all: Arc<watch::Sender<Current>>,
    line: usize,
}

/// Places for so many lines.
pub(super) fn places(lines: usize) -> (Vec<Place>, Uplink) {
    let (all, current) = watch::channel(vec![None; lines]);
    let all = Arc::new(all);
    let place = |line| Place {
        all: all.clone(),
        line,
    };
    (
        (0..lines).map(place).collect(),
        Uplink {
            current,
            only: None,
        },
    )
}

impl Place {
    /// Publishes the connection that calls may use, if any.
    pub(super) fn publish(&self, connection: Option<Connection>) {
        self.all
            .send_modify(|current| current[self.line] = connection);
    }

    /// Whether calls can use another line, on which kas has accepted the agent.
    pub(super) fn is_covered(&self) -> bool {
        self.cover().is_some()
    }

    /// Waits until calls can use no other line. Cancel-safe.
    pub(super) async fn uncovered(&self) {
        while let Some(connection) = self.cover() {
            connection.draining().await;
        }
    }

    fn cover(&self) -> Option<Connection> {
        self.others()
            .find(|it| !it.is_draining() && it.is_accepted())
    }

    /// The addresses that the other lines lead to.
    pub(super) fn addresses_of_others(&self) -> Vec<SocketAddr> {
        self.others().filter_map(|it| it.remote_addr()).collect()
    }

    fn others(&self) -> impl Iterator<Item = Connection> {
        let mut current = self.all.borrow().clone();
        current[self.line] = None;
        current.into_iter().flatten()
    }
}

impl Uplink {
    /// How many lines there are.
    pub(crate) fn lines(&self) -> usize {
        self.current.borrow().len()
    }

    /// The same for one line.
    pub(crate) fn line(&self, line: usize) -> Self {
        Self {
            current: self.current.clone(),
            only: Some(line),
        }
    }

    /// Waits for a connection that can be used. Cancel-safe.
    pub(crate) async fn connection(&self) -> Connection {
        self.choose(|usable| usable.next()).await
    }

    /// The same, but of all that can be used the one with the fewest idle tunnels.
    pub(crate) async fn least_loaded(&self) -> Connection {
        self.choose(|usable| usable.min_by_key(|it| it.idle_tunnels()))
            .await
    }

    /// Waits until there is a usable connection other than this one. Cancel-safe.
    pub(crate) async fn until_other_than(&self, connection: &Connection) {
        connection.draining().await;
        self.connection().await;
    }

    /// Whether there is a connection on which kas has accepted the agent.
    pub(crate) fn accepted(&self) -> bool {
        let current = self.current.borrow();
        current.iter().flatten().any(Connection::is_accepted)
    }

    /// Waits until kas has accepted the agent on a connection. Cancel-safe.
    pub(crate) async fn until_accepted(&self) {
        loop {
            let connection = self.connection().await;
            tokio::select! {
                () = connection.accepted() => return,
                () = connection.draining() => {}
            }
        }
    }

    async fn choose(
        &self,
        choice: impl for<'a> Fn(&mut dyn Iterator<Item = &'a Connection>) -> Option<&'a Connection>,
    ) -> Connection {
        let mut current = self.current.clone();
        let chosen = |current: &Current| {
            let lines = current.iter().enumerate();
            let allowed = lines.filter(|(line, _)| self.only.is_none_or(|only| only == *line));
            let mut usable = allowed
                .filter_map(|(_, it)| it.as_ref())
                .filter(|it| !it.is_draining());
            choice(&mut usable).cloned()
        };
        loop {
            let found = current.wait_for(|current| chosen(current).is_some()).await;
            match found.map(|current| chosen(&current)) {
                Ok(Some(connection)) => return connection,
                // It began to drain in this very moment.
                Ok(None) => {}
                // The session has ended; so will whoever waits here.
                Err(_) => std::future::pending().await,
            }
        }
    }
}
