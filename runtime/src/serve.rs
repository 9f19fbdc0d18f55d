//! The accept loop of every port, and the loop of connections on which gRPC is called ([`http2`]).
//!
//! Each connection is a task of its own, in which its handshakes are done within a deadline before it is served.
//! Draining ends the loop and waits for the connections.

pub mod http2;

use std::{collections::VecDeque, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};

use crate::{
    drain::Drain,
    listen::{Handshake, Listen, Socket},
};

/// What happens to new connections when there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// All are served.
    None,
    /// Beyond so many, new ones wait until another ends.
    Wait(usize),
    /// Beyond so many, a new one takes the place of the oldest, which is closed. All are closed when the loop ends.
    CloseOldest(usize),
}

/// A port: where connections come from, and how they begin.
#[derive(Debug)]
pub struct Server<L, A> {
    port: &'static str,
    listener: L,
    acceptor: A,
    limit: Limit,
}

impl<L: Listen, A: Handshake<L::Socket>> Server<L, A> {
    /// A server whose port has this name in the log.
    pub fn new(port: &'static str, listener: L, acceptor: A) -> Self {
        Self {
            port,
            listener,
            acceptor,
            limit: Limit::None,
        }
    }

    /// The same with a limit on its connections.
    #[must_use]
    pub fn limited(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }

    /// Accepts connections until draining starts. Each is served by `serve`, in a task that the drain waits for.
    pub async fn run<S, F>(self, drain: Drain, serve: S)
    where
        S: FnOnce(A::Connection) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut places = Places::new(self.limit);
        loop {
            let next = async {
                let place = places.free().await;
                (place, self.listener.next().await)
            };
            let (place, socket) = tokio::select! {
                next = next => next,
                () = drain.wait() => return,
            };
            let served = connection(
                self.port,
                self.acceptor.clone(),
                socket,
                serve.clone(),
                place,
            );
            places.taken_by(drain.spawn(served).abort_handle());
        }
    }
}

async fn connection<K, A, S, F>(
    port: &'static str,
    acceptor: A,
    socket: K,
    serve: S,
    place: Option<OwnedSemaphorePermit>,
) where
    K: Socket,
    A: Handshake<K>,
    S: FnOnce(A::Connection) -> F,
    F: Future<Output = ()>,
{
    let remote_addr = socket.remote_addr();
    // Boxed: the future of all handshakes is much larger than what is left of it in the task.
    match Box::pin(acceptor.handshake(socket)).await {
        Ok(accepted) => serve(accepted).await,
        Err(error) => error.report(port, &remote_addr),
    }
    drop(place);
}

/// The connections that are there, as far as they are limited.
enum Places {
    Unlimited,
    Bounded(Arc<Semaphore>),
    OldestFirst(usize, VecDeque<AbortHandle>),
}

impl Places {
    fn new(limit: Limit) -> Self {
        match limit {
            Limit::None => Self::Unlimited,
            Limit::Wait(connections) => Self::Bounded(Arc::new(Semaphore::new(connections))),
            Limit::CloseOldest(connections) => Self::OldestFirst(connections, VecDeque::new()),
        }
    }

    /// Waits for a place. Cancel-safe.
    async fn free(&self) -> Option<OwnedSemaphorePermit> {
        match self {
            // The semaphore is never closed.
            Self::Bounded(places) => places.clone().acquire_owned().await.ok(),
            Self::Unlimited | Self::OldestFirst(..) => None,
        }
    }

    fn taken_by(&mut self, connection: AbortHandle) {
        let Self::OldestFirst(limit, oldest_first) = self else {
            return;
        };
        oldest_first.push_back(connection);
        oldest_first.retain(|it| !it.is_finished());
        if oldest_first.len() > *limit
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if let Self::OldestFirst(_, connections) = self {
            for connection in connections {
                connection.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::mpsc,
    };

    use super::*;
    use crate::listen::{PlainAccepted, PlainAcceptor, bind};

    #[tokio::test]
    async fn draining_ends_the_loop_and_waits_for_connections() {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr();
        let drain = Drain::new();
        let server = Server::new("test", listener, PlainAcceptor::new(None));
        let serving = tokio::spawn(server.run(drain.clone(), echo));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"a").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'a');

        drain.start();
        serving.await.unwrap();

        assert_eq!(drain.in_progress(), 1);
        client.write_all(b"b").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'b');
        drop(client);
        assert!(drain.finished(std::time::Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_waits_for_another_to_end() {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr();
        let (begun, mut begins) = mpsc::channel(2);
        let server = Server::new("test", listener, PlainAcceptor::new(None));
        let serve = move |connection: PlainAccepted| {
            let _ = begun.try_send(());
            echo(connection)
        };
        tokio::spawn(server.limited(Limit::Wait(1)).run(Drain::new(), serve));
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"a").await.unwrap();
        begins.recv().await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"b").await.unwrap();
        first.write_all(b"c").await.unwrap();
        let mut both = [0; 2];
        first.read_exact(&mut both).await.unwrap();
        assert!(begins.try_recv().is_err(), "the second waits");

        drop(first);

        assert_eq!(second.read_u8().await.unwrap(), b'b');
    }

    async fn echo(connection: PlainAccepted) {
        let (mut reader, mut writer) = tokio::io::split(connection.io);
        // A client that is gone needs no echo.
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    }
}
