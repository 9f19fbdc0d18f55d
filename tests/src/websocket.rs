//! A WebSocket's client that speaks JSON.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a handshake or a message may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A client whose handshake was answered.
#[derive(Debug)]
pub struct WebSocket(TcpStream);

impl WebSocket {
    /// Asks a port of loopback for a WebSocket at this path, with these lines of header.
    ///
    /// # Errors
    /// When there is none.
    pub async fn open(port: u16, path: &str, lines: &[&str]) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let lines = lines.join("\r\n");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(LIMIT, read).await??;
        let head = String::from_utf8_lossy(&head);
        ensure!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Ok(Self(stream))
    }

    /// Sends a message of less than 64 KiB.
    ///
    /// # Errors
    /// When the server does not read.
    pub async fn send(&mut self, message: &Value) -> Result<()> {
        let text = message.to_string();
        let length = u16::try_from(text.len())?.to_be_bytes();
        // Masked with zeros, which changes nothing.
        let frame = [&[0x81, 0xFE], &length[..], &[0; 4], text.as_bytes()].concat();
        Ok(self.0.write_all(&frame).await?)
    }

    /// The next message.
    ///
    /// # Errors
    /// When the server ends the WebSocket, or says nothing for a minute.
    pub async fn next(&mut self) -> Result<Value> {
        let message = tokio::time::timeout(LIMIT, self.message()).await;
        message.context("the server says nothing")?
    }

    async fn message(&mut self) -> Result<Value> {
        loop {
            let [first, length] = self.bytes::<2>().await?;
            let length = match length {
                126 => u64::from(u16::from_be_bytes(self.bytes().await?)),
                127 => u64::from_be_bytes(self.bytes().await?),
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length)?];
            self.0.read_exact(&mut payload).await?;
            match first {
                0x81 => return Ok(serde_json::from_slice(&payload)?),
                0x89 => {}
                other => bail!("a frame of the kind {other:#x}: {payload:?}"),
            }
        }
    }

    async fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).await?;
        Ok(bytes)
    }
}
