//! HTTP/1.1 by hand: what is sent is what was meant, and what comes is seen as it came.

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{
    Got,
    generate::{Framing, Request, bytes, text},
};

/// Connections to a port, one after the other, each for as many requests as it lasts.
#[derive(Debug)]
pub(crate) struct Client {
    port: u16,
    prefix: &'static str,
    socket: Option<BufReader<TcpStream>>,
}

impl Client {
    pub(crate) fn new(port: u16, prefix: &'static str) -> Self {
        Self {
            port,
            prefix,
            socket: None,
        }
    }

    /// Sends a request with these headers ahead of its own, and reads the answer.
    pub(crate) async fn send(&mut self, request: &Request, more: &[(&str, String)]) -> Result<Got> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await?),
        };
        let prefix = self.prefix;
        let mut head = format!(
            "{} {prefix}{} HTTP/1.1\r\nhost: it\r\n",
            request.method, request.target
        );
        for (name, value) in more {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&match request.body.is_empty() {
            true => "\r\n".to_owned(),
            false => framing(&request.body, request.framing),
        });
        let mut all = bytes(&head);
        if !request.body.is_empty() {
            all.extend(body(&request.body, request.framing));
        }
        // A refusal may come before all is taken.
        socket.write_all(&all).await.ok();
        let (got, stays) = answer(&mut socket, request.method == "HEAD").await?;
        self.socket = stays.then_some(socket);
        Ok(got)
    }
}

async fn answer(socket: &mut BufReader<TcpStream>, is_head: bool) -> Result<(Got, bool)> {
    let (status, headers) = loop {
        let (first, headers) = head(socket).await?;
        let status: u16 = first.split(' ').nth(1).context("a status line")?.parse()?;
        if !(100..200).contains(&status) {
            break (status, headers);
        }
    };
    let is_bodyless = is_head || matches!(status, 204 | 304);
    let body = match is_bodyless {
        true => Vec::new(),
        false => read_body(socket, &headers, true).await?,
    };
    let of = |wanted: &str| headers.iter().find(|(name, _)| name == wanted);
    let is_framed = is_bodyless || of("content-length").or(of("transfer-encoding")).is_some();
    let closes = of("connection").is_some_and(|(_, value)| value == "close");
    let got = Got {
        status,
        headers,
        body,
    };
    Ok((got, is_framed && !closes))
}

/// The header that says how long a body is, and the end of the head.
pub(crate) fn framing(body: &[u8], framing: Framing) -> String {
    match framing {
        Framing::Length => format!("content-length: {}\r\n\r\n", body.len()),
        Framing::Chunked => "transfer-encoding: chunked\r\n\r\n".to_owned(),
        Framing::ChunkedAndMore => {
            "transfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n".to_owned()
        }
        Framing::Close => "connection: close\r\n\r\n".to_owned(),
    }
}

/// A body as it is framed.
pub(crate) fn body(body: &[u8], framing: Framing) -> Vec<u8> {
    let (extension, trailers) = match framing {
        Framing::Length | Framing::Close => return body.to_vec(),
        Framing::Chunked => ("", ""),
        Framing::ChunkedAndMore => (";a=\"#\"", "x-end: GET /# HTTP/1.1\r\n"),
    };
    let mut bytes = Vec::new();
    for piece in body.chunks(4093) {
        bytes.extend(format!("{:x}{extension}\r\n", piece.len()).into_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(format!("0\r\n{trailers}\r\n").into_bytes());
    bytes
}

async fn line<R: AsyncBufReadExt + Unpin>(socket: &mut R) -> Result<String> {
    let mut line = Vec::new();
    socket.read_until(b'\n', &mut line).await?;
    Ok(text(
        line.strip_suffix(b"\r\n").context("the connection ended")?,
    ))
}

/// The first line of a message, and its headers, with their names in lower case.
pub(crate) async fn head<R: AsyncBufReadExt + Unpin>(
    socket: &mut R,
) -> Result<(String, Vec<(String, String)>)> {
    let first = line(socket).await?;
    let mut headers = Vec::new();
    loop {
        let line = line(socket).await?;
        if line.is_empty() {
            return Ok((first, headers));
        }
        let (name, value) = line.split_once(':').context("a header")?;
        let value = value.trim_matches([' ', '\t']);
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

/// The body behind a head; whether one ends with the connection, where nothing is said.
pub(crate) async fn read_body<R: AsyncBufReadExt + Unpin>(
    socket: &mut R,
    headers: &[(String, String)],
    may_end_with_it: bool,
) -> Result<Vec<u8>> {
    let of = |wanted: &str| headers.iter().find(|(name, _)| name == wanted);
    let mut body = Vec::new();
    if of("transfer-encoding").is_some() {
        loop {
            let line_of_chunk = line(socket).await?;
            let digits = line_of_chunk.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16)?;
            if size == 0 {
                while !line(socket).await?.is_empty() {}
                return Ok(body);
            }
            let from = body.len();
            body.resize(from + size, 0);
            socket.read_exact(&mut body[from..]).await?;
            if !line(socket).await?.is_empty() {
                bail!("a chunk is longer than it said");
            }
        }
    } else if let Some((_, length)) = of("content-length") {
        body.resize(length.parse()?, 0);
        socket.read_exact(&mut body).await?;
    } else if may_end_with_it {
        socket.read_to_end(&mut body).await?;
    }
    Ok(body)
}
