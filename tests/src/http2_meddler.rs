//! Something between a client and a server that reads HTTP/2 in clear, and does not do what it should with it.

use std::{collections::HashMap, io};

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meddling {
    /// Pings of the client go nowhere.
    SwallowPings,
    /// A request is passed on when it has ended.
    BufferRequests,
}

/// A running meddler; dropping it closes everything.
#[derive(Debug)]
pub struct Meddler {
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
const PING: u8 = 6;
const ACK: u8 = 1;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

impl Meddler {
    /// Starts one in front of a port of loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(target: u16, meddling: Meddling) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, target, meddling));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            port,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

async fn carry(client: TcpStream, target: u16, meddling: Meddling) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target)).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let mut preface = [0; PREFACE_BYTES];
        from_client.read_exact(&mut preface).await?;
        to_server.write_all(&preface).await?;
        if !preface.starts_with(b"PRI") {
            tokio::io::copy(&mut from_client, &mut to_server).await?;
            return Ok(());
        }
        let mut kept = HashMap::<u32, Vec<u8>>::new();
        loop {
            let frame = frame(&mut from_client).await?;
            let (kind, flags) = (frame[3], frame[4]);
            let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
            match meddling {
                Meddling::SwallowPings if kind == PING && flags & ACK == 0 => {}
                Meddling::BufferRequests if stream != 0 => {
                    let ends = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
                    let request = kept.entry(stream).or_default();
                    request.extend(frame);
                    if ends {
                        to_server.write_all(request).await?;
                        kept.remove(&stream);
                    }
                }
                Meddling::SwallowPings | Meddling::BufferRequests => {
                    to_server.write_all(&frame).await?;
                }
            }
        }
    };
    let back = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        ended = there => ended,
        ended = back => ended.map(drop),
    }
}

/// A whole frame, with its header.
async fn frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER_BYTES];
    from.read_exact(&mut frame).await?;
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
    frame.resize(HEADER_BYTES + length as usize, 0);
    from.read_exact(&mut frame[HEADER_BYTES..]).await?;
    Ok(frame)
}
