//! Gives out the connections that new calls use.

use std::{net::SocketAddr, sync::Arc};

use tokio::sync::watch;

use super::Connection;

/// What the lines are connected by now.
type Current = Vec<Option<Connection>>;

/// Gives out connections of all lines, or of one. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    current: watch::Receiver<Current>,
    only: Option<usize>,
}

/// Where one line shows its connection.
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
    /// Shows the connection that calls may use now, if any.
    pub(super) fn show(&self, connection: Option<Connection>) {
        self.all
            .send_modify(|current| current[self.line] = connection);
    }

    /// Whether calls can use another line on which kas has accepted the agent.
    pub(super) fn is_covered(&self) -> bool {
        self.cover().is_some()
    }

    /// Waits until calls can use no other line. Cancel-safe.
    pub(super) async fn uncovered(&self) {
        while let Some(connection) = self.cover() {
            connection.left().await;
        }
    }

    fn cover(&self) -> Option<Connection> {
        self.others().find(|it| !it.is_left() && it.is_accepted())
    }

    /// Where the other lines lead to.
    pub(super) fn addresses_of_others(&self) -> Vec<SocketAddr> {
        self.others().filter_map(|it| it.peer()).collect()
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
    pub(crate) async fn lightest(&self) -> Connection {
        self.choose(|usable| usable.min_by_key(|it| it.idle_tunnels()))
            .await
    }

    /// Waits until there is a usable connection other than this one. Cancel-safe.
    pub(crate) async fn other_than(&self, connection: &Connection) {
        connection.left().await;
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
                () = connection.left() => {}
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
                .filter(|it| !it.is_left());
            choice(&mut usable).cloned()
        };
        loop {
            let found = current.wait_for(|current| chosen(current).is_some()).await;
            match found.map(|current| chosen(&current)) {
                Ok(Some(connection)) => return connection,
                // Left in this very moment.
                Ok(None) => {}
                // The session has ended; so will whoever waits here.
                Err(_) => std::future::pending().await,
            }
        }
    }
}
