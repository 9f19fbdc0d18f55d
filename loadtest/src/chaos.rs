//! A TCP proxy that misbehaves on command: a load balancer, or a link between two processes.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// What it does with what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Carries it.
    #[default]
    Pass,
    /// Carries nothing and says nothing; connections stay open.
    BlackHole,
    /// Carries each piece after this time.
    Delay(Duration),
    /// Carries so many bytes a second and direction of a connection, at least one.
    Throttle(u32),
}

/// A running proxy; dropping it closes everything.
#[derive(Debug)]
pub struct Chaos {
    port: u16,
    mode: watch::Sender<Mode>,
    cut: watch::Sender<u64>,
    _serving: AbortOnDropHandle<()>,
}

/// How long a target may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PIECE_BYTES: usize = 64 << 10;

impl Chaos {
    /// Starts a proxy to one of these ports of loopback, in turns.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(targets: &[u16]) -> io::Result<Self> {
        Self::on(0, targets).await
    }

    /// The same on a port that is known beforehand.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn on(port: u16, targets: &[u16]) -> io::Result<Self> {
        let loopback = |port: &u16| SocketAddr::from(([127, 0, 0, 1], *port));
        let targets: Vec<_> = targets.iter().map(loopback).collect();
        Self::between(loopback(&port), &targets).await
    }

    /// Starts one that listens here and carries each connection to one of the targets, in turns.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn between(listen: SocketAddr, targets: &[SocketAddr]) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let port = listener.local_addr()?.port();
        let (mode, cut) = (watch::Sender::default(), watch::Sender::default());
        let link = Link {
            targets: targets.into(),
            next: Arc::default(),
            mode: mode.subscribe(),
            cut: cut.subscribe(),
        };
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, link)));
        Ok(Self {
            port,
            mode,
            cut,
            _serving: serving,
        })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what it does, with open connections too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Resets every open connection at once and then after each `period`, until it is dropped.
    pub async fn cut_every(&self, period: Duration) -> Infallible {
        let mut clock = interval(period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            clock.tick().await;
            self.cut();
        }
    }
}

#[derive(Clone)]
struct Link {
    targets: Arc<[SocketAddr]>,
    next: Arc<AtomicUsize>,
    mode: watch::Receiver<Mode>,
    cut: watch::Receiver<u64>,
}

async fn serve(listener: TcpListener, link: Link) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, link.clone()));
                }
                // Out of file descriptors, say: it goes on when there are some.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn carry(client: TcpStream, mut link: Link) {
    link.cut.mark_unchanged();
    if *link.mode.borrow() == Mode::BlackHole {
        let passing = link.mode.wait_for(|mode| *mode != Mode::BlackHole);
        tokio::select! {
            _ = passing => {}
            _ = link.cut.changed() => return reset(&client),
        }
    }
    let Some(server) = connect(&link).await else {
        return reset(&client);
    };
    // Small messages must not wait for each other; failing to say so is slow, not wrong.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut cut = link.cut.clone();
    let ended = async {
        let up = copy(&client_read, server_write, link.mode.clone());
        let down = copy(&server_read, client_write, link.mode.clone());
        tokio::try_join!(up, down)
    };
    tokio::select! {
        ended = ended => {
            // One end was reset: so is the other, at once.
            if ended.is_err() {
                reset(client_read.as_ref());
                reset(server_read.as_ref());
            }
        }
        _ = cut.changed() => {
            reset(client_read.as_ref());
            reset(server_read.as_ref());
        }
    }
}

async fn connect(link: &Link) -> Option<TcpStream> {
    for _ in 0..link.targets.len() {
        let turn = link.next.fetch_add(1, Ordering::Relaxed);
        let target = link.targets[turn % link.targets.len()];
        if let Ok(Ok(server)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
            return Some(server);
        }
    }
    None
}

async fn copy(
    from: &OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) -> io::Result<()> {
    loop {
        from.readable().await?;
        // A connection that is silent has no buffer: thousands of them are.
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let length = match from.try_read_buf(&mut piece) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let now = *mode.borrow_and_update();
        match now {
            Mode::Pass => {}
            Mode::BlackHole => {
                // What was read is lost with its connection, or comes late as TCP's would.
                let _ = mode.wait_for(|mode| *mode != Mode::BlackHole).await;
            }
            Mode::Delay(delay) => sleep(delay).await,
            Mode::Throttle(rate) => {
                let seconds = piece.len() as f64 / f64::from(rate.max(1));
                sleep(Duration::from_secs_f64(seconds)).await;
            }
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece).await?;
    }
}

fn reset(socket: &TcpStream) {
    // Fails only when the connection is gone, which is what is wanted.
    let _ = socket.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn connected() -> (Chaos, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let chaos = Chaos::start(&[listener.local_addr().unwrap().port()])
            .await
            .unwrap();
        let client = TcpStream::connect(("127.0.0.1", chaos.port()))
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (chaos, client, server)
    }

    #[tokio::test]
    async fn a_reset_reaches_a_client_that_says_nothing() {
        let (_chaos, mut client, server) = connected().await;
        server.set_zero_linger().unwrap();

        drop(server);

        let read = timeout(Duration::from_secs(10), client.read_u8()).await;
        assert!(matches!(read, Ok(Err(_))), "it is told");
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_an_end_does_too() {
        let (_chaos, mut client, mut server) = connected().await;

        client.write_all(b"ask").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = Vec::new();
        server.read_to_end(&mut asked).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answered = Vec::new();
        client.read_to_end(&mut answered).await.unwrap();

        assert_eq!((&*asked, &*answered), (&b"ask"[..], &b"answer"[..]));
    }

    #[tokio::test]
    async fn a_throttled_link_carries_little() {
        let (chaos, mut client, mut server) = connected().await;
        tokio::time::pause();
        chaos.set(Mode::Throttle(1024));
        let began = tokio::time::Instant::now();

        client.write_all(&[7; 2048]).await.unwrap();
        server.read_exact(&mut [0; 2048]).await.unwrap();

        assert!(began.elapsed() >= Duration::from_millis(1900));
    }
}
