//! A load balancer whose targets change.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    resets: watch::Sender<()>,
    _running: AbortOnDropHandle<()>,
}

impl Front {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let known = targets.clone();
        let resets = watch::Sender::new(());
        let told = resets.clone();
        let running = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(carry(client, known.clone(), told.subscribe()));
            }
        });
        Self {
            address,
            targets,
            resets,
            _running: AbortOnDropHandle::new(running),
        }
    }

    pub(crate) fn add(&self, target: SocketAddr) {
        self.targets.lock().unwrap().push(target);
    }

    /// Resets all connections.
    pub(crate) fn reset(&self) {
        self.resets.send_replace(());
    }

    pub(crate) fn remove(&self, target: SocketAddr) {
        self.targets.lock().unwrap().retain(|it| *it != target);
    }
}

async fn carry(
    mut client: TcpStream,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    mut reset: watch::Receiver<()>,
) {
    let count = targets.lock().unwrap().len();
    for _ in 0..count {
        let target = {
            let mut targets = targets.lock().unwrap();
            targets.rotate_left(1);
            targets[0]
        };
        if let Ok(mut server) = TcpStream::connect(target).await {
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                _ = reset.changed() => for socket in [&client, &server] {
                    SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
                },
            }
            return;
        }
    }
}
