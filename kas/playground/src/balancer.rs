//! A small TCP load balancer that can reset everything it carries.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long a target may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Passes connections on to its targets in turn.
#[derive(Debug)]
pub struct Balancer {
    listener: TcpListener,
    targets: Arc<[SocketAddr]>,
    next: Arc<AtomicUsize>,
    drop_every: Option<Duration>,
    cut: Arc<AtomicU64>,
}

impl Balancer {
    /// Balances what `listener` accepts over `targets`, and resets every
    /// connection each `drop_every`.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        targets: Vec<SocketAddr>,
        drop_every: Option<Duration>,
    ) -> Self {
        Self {
            listener,
            targets: targets.into(),
            next: Arc::default(),
            drop_every,
            cut: Arc::default(),
        }
    }

    /// How many connections it has reset, counted as it goes on.
    #[must_use]
    pub fn connections_cut(&self) -> Arc<AtomicU64> {
        self.cut.clone()
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let (reset, _) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut resets = self.drop_every.map(tokio::time::interval);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => if let Ok((client, _)) = accepted {
                    let (targets, next) = (self.targets.clone(), self.next.clone());
                    let (reset, cut) = (reset.subscribe(), self.cut.clone());
                    connections.spawn(async move {
                        if forward(client, targets, next, reset).await == End::Reset {
                            cut.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                () = tick(&mut resets) => {
                    reset.send_replace(());
                }
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn tick(resets: &mut Option<tokio::time::Interval>) {
    match resets {
        Some(resets) => drop(resets.tick().await),
        None => std::future::pending().await,
    }
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// By one of its two ends, or because no target accepts.
    Ordinary,
    /// By the load balancer.
    Reset,
}

async fn forward(
    mut client: TcpStream,
    targets: Arc<[SocketAddr]>,
    next: Arc<AtomicUsize>,
    mut reset: watch::Receiver<()>,
) -> End {
    let Some(mut server) = connect(&targets, &next).await else {
        return End::Ordinary;
    };
    // Small messages must not wait for each other; failing to say so is slow, not wrong.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    reset.mark_unchanged();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => End::Ordinary,
        // The connections are reset, as a load balancer that fails would.
        _ = reset.changed() => {
            for socket in [&client, &server] {
                let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
            End::Reset
        }
    }
}

async fn connect(targets: &[SocketAddr], next: &AtomicUsize) -> Option<TcpStream> {
    for _ in 0..targets.len() {
        let target = targets[next.fetch_add(1, Ordering::Relaxed) % targets.len()];
        if let Ok(Ok(server)) =
            tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await
        {
            return Some(server);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn balanced(drop_every: Option<Duration>) -> (SocketAddr, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let balancer = Balancer::new(listener, vec![echo().await, echo().await], drop_every);
        let cut = balancer.connections_cut();
        tokio::spawn(balancer.run(CancellationToken::new()));
        (address, cut)
    }

    #[tokio::test]
    async fn bytes_reach_a_target_and_come_back() {
        let (address, cut) = balanced(None).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        assert_eq!(cut.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn connections_are_reset_when_it_is_time_and_counted() {
        let (address, cut) = balanced(Some(Duration::from_millis(50))).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(10), client.read(&mut [0; 1])).await;
        assert!(
            read.expect("reset in time").is_err(),
            "a reset, not an orderly end"
        );
        assert_eq!(cut.load(Ordering::Relaxed), 1);
    }
}
