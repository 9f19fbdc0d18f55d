//! An HTTP/2 connection in clear on which any call can be made, well formed or not.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Request, Response};
use tokio::{net::TcpSocket, task::JoinHandle};
use tonic::Status;

/// A connection; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Wire {
    send: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// A call in progress.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) response: h2::client::ResponseFuture,
    pub(crate) send: SendStream<Bytes>,
}

impl Wire {
    /// Connects to a port of loopback with HTTP/2 by prior knowledge.
    ///
    /// # Errors
    /// When nobody listens, or HTTP/2 is not spoken there.
    pub(crate) async fn open(port: u16) -> Result<Self> {
        Self::open_from("127.0.0.1", port).await
    }

    /// The same from another address of loopback, as `127.0.0.2`.
    ///
    /// # Errors
    /// When nobody listens, or HTTP/2 is not spoken there.
    pub(crate) async fn open_from(address: &str, port: u16) -> Result<Self> {
        Self::handshake(address, port, [8 << 20, 64 << 20]).await
    }

    /// Connects with the smallest windows that HTTP/2 begins with: what is not read waits at the server.
    ///
    /// # Errors
    /// When nobody listens, or HTTP/2 is not spoken there.
    pub(crate) async fn open_narrow(port: u16) -> Result<Self> {
        Self::handshake("127.0.0.1", port, [65_535; 2]).await
    }

    async fn handshake(address: &str, port: u16, [stream, connection]: [u32; 2]) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(address.parse()?, 0))?;
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let socket = socket.connect(server).await?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(stream)
            .initial_connection_window_size(connection)
            .max_header_list_size(16 << 20)
            .handshake(socket)
            .await?;
        Ok(Self {
            send,
            driver: tokio::spawn(connection),
        })
    }

    /// Begins a gRPC call; messages are sent by [`Call::send`].
    ///
    /// # Errors
    /// When the connection has ended.
    pub(crate) async fn call(&self, method: &str, token: &str) -> Result<Call> {
        self.request(grpc(method, token).body(())?).await
    }

    /// A gRPC call of one message, to its end.
    ///
    /// # Errors
    /// When the stream or the connection broke.
    pub(crate) async fn ask(&self, method: &str, token: &str, message: &[u8]) -> Result<Status> {
        let mut call = self.call(method, token).await?;
        // What was refused already needs no message.
        let _ = call.send.send_data(framed(false, message), true);
        call.status().await
    }

    /// The same with a message that is compressed already.
    ///
    /// # Errors
    /// When the stream or the connection broke.
    pub(crate) async fn ask_gzip(&self, method: &str, token: &str, gzip: &[u8]) -> Result<Status> {
        let request = grpc(method, token).header("grpc-encoding", "gzip");
        let mut call = self.request(request.body(())?).await?;
        // What was refused already needs no message.
        let _ = call.send.send_data(framed(true, gzip), true);
        call.status().await
    }

    /// Begins any request whose body follows.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(crate) async fn request(&self, request: Request<()>) -> Result<Call> {
        let mut send = self.send.clone().ready().await?;
        let (response, send) = send.send_request(request, false)?;
        Ok(Call { response, send })
    }

    /// Begins a GET of a user, without a body.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(crate) async fn get(&self, path: &str, bearer: &str) -> Result<Call> {
        let request = Request::get(format!("http://kas/k8s-proxy{path}"))
            .header("authorization", format!("Bearer {bearer}"));
        let mut send = self.send.clone().ready().await?;
        let (response, send) = send.send_request(request.body(())?, true)?;
        Ok(Call { response, send })
    }

    /// Whether the server has ended the connection.
    pub(crate) fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Call {
    /// Whether the server has not begun to answer, and nothing broke.
    pub(crate) fn is_unanswered(&mut self) -> bool {
        (&mut self.response).now_or_never().is_none()
    }

    /// The gRPC status that the call ended with.
    ///
    /// # Errors
    /// When the stream or the connection broke.
    pub(crate) async fn status(self) -> Result<Status> {
        let (head, mut body): (_, RecvStream) = Response::into_parts(self.response.await?);
        if let Some(status) = Status::from_header_map(&head.headers) {
            return Ok(status);
        }
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
        let trailers: HeaderMap = body.trailers().await?.context("no trailers")?;
        Status::from_header_map(&trailers).context("no gRPC status")
    }
}

fn grpc(method: &str, token: &str) -> http::request::Builder {
    Request::post(format!("http://kas{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
}

/// A gRPC message, as it is framed.
pub(crate) fn framed(compressed: bool, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(u8::from(compressed));
    frame.put_u32(u32::try_from(message.len()).expect("tests send less than 4 GiB"));
    frame.extend_from_slice(message);
    frame.freeze()
}
