//! A WebSocket's client, frame by frame.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::proxy::LONG;

/// A client whose handshake was answered.
pub(crate) struct Socket {
    stream: TcpStream,
    /// The head of the answer, in lower case.
    pub(crate) head: String,
}

/// What a server says.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    Json(serde_json::Value),
    Close(u16),
}

impl Socket {
    /// Asks for a WebSocket at this path, with these header lines.
    pub(crate) async fn open(address: SocketAddr, path: &str, lines: &[String]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let lines = lines.join("\r\n");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: kas.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = tokio::time::timeout(LONG, stream.read_u8()).await.unwrap();
            head.push(byte.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        Self { stream, head }
    }

    /// Whether the server took it.
    pub(crate) fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    /// Sends a text.
    pub(crate) async fn send(&mut self, text: &str) {
        // Masked with zeros, which changes nothing.
        let length = u16::try_from(text.len()).unwrap().to_be_bytes();
        let frame = [&[0x81, 0xFE], &length[..], &[0; 4], text.as_bytes()].concat();
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Announces a text of so many bytes, of which nothing comes.
    pub(crate) async fn send_header(&mut self, length: u64) {
        let frame = [&[0x81, 0xFF], &length.to_be_bytes()[..], &[0; 4]].concat();
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Ends it.
    pub(crate) async fn close(&mut self) {
        self.stream
            .write_all(&[0x88, 0x80, 0, 0, 0, 0])
            .await
            .unwrap();
    }

    /// The next text, or the end. Pings are left out.
    pub(crate) async fn said(&mut self) -> Said {
        tokio::time::timeout(LONG, self.frame()).await.unwrap()
    }

    /// The next text, as JSON.
    pub(crate) async fn json(&mut self) -> serde_json::Value {
        match self.said().await {
            Said::Json(json) => json,
            Said::Close(code) => panic!("closed with {code}"),
        }
    }

    async fn frame(&mut self) -> Said {
        loop {
            let [first, length] = self.bytes::<2>().await;
            let length = match length {
                126 => u64::from(u16::from_be_bytes(self.bytes().await)),
                127 => u64::from_be_bytes(self.bytes().await),
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.unwrap();
            match first {
                0x81 => return Said::Json(serde_json::from_slice(&payload).unwrap()),
                0x88 => return Said::Close(u16::from_be_bytes([payload[0], payload[1]])),
                0x89 => {}
                other => panic!("a frame of the kind {other:#x}"),
            }
        }
    }

    async fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }
}
