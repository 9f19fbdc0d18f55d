//! A tiny HTTP proxy that knows CONNECT and one user.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use runtime::{
    io::ByteStream,
    listen::{PlainAcceptor, bind},
    tls::ServerTls,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional},
    net::TcpStream,
    task::JoinSet,
};

/// Runs until dropped.
pub(crate) struct HttpProxy {
    url: (&'static str, u16),
    tunnels: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl HttpProxy {
    /// Starts it, in clear or in TLS.
    pub(crate) async fn start(tls: Option<ServerTls>) -> Self {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = (scheme, listener.local_addr().port());
        let tunnels = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tunnels);
        let acceptor = PlainAcceptor::new(tls);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, peer) = listener.accept().await;
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                connections.spawn(async move {
                    let io = acceptor.accept(socket, peer).await.unwrap().io;
                    serve(io, &count).await;
                });
            }
        });
        Self {
            url,
            tunnels,
            _tasks: tasks,
        }
    }

    /// Its URL, with `credentials` such as `user:password@`.
    pub(crate) fn url(&self, credentials: &str) -> String {
        format!("{}://{credentials}localhost:{}", self.url.0, self.url.1)
    }

    /// How many tunnels it made.
    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::SeqCst)
    }
}

async fn serve(io: ByteStream, tunnels: &AtomicUsize) {
    let mut io = BufReader::new(io);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        io.read_line(&mut head).await.unwrap();
    }
    // user:secret
    if !head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n") {
        let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
        io.write_all(refusal).await.unwrap();
        return;
    }
    let to = head.strip_prefix("CONNECT ").unwrap();
    let to = to.split(' ').next().unwrap();
    let mut target = TcpStream::connect(to).await.unwrap();
    tunnels.fetch_add(1, Ordering::SeqCst);
    io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    io.flush().await.unwrap();
    let _ = copy_bidirectional(&mut io, &mut target).await;
}
