//! HTTP/2 by hand, without a library that would refuse or mend what is sent.

use anyhow::{Context, Result, bail, ensure};
use fluke_hpack::Decoder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::{
    Got,
    generate::{Request, bytes, text},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// What every peer takes in one frame.
const FRAME_BYTES: usize = 16 << 10;
const INITIAL_WINDOW: i64 = 65_535;
/// Windows of ours that are never used up.
const ENDLESS: u32 = (1 << 31) - 1;

/// A connection on which requests are made one after the other.
pub(crate) struct Client {
    socket: BufReader<TcpStream>,
    decoder: Decoder<'static>,
    /// How much the server takes on the connection.
    window: i64,
    stream: u32,
}

/// What comes of a request.
#[derive(Debug, Default)]
struct Answer {
    fields: Option<Vec<(String, String)>>,
    body: Vec<u8>,
    ended: bool,
}

impl Client {
    pub(crate) async fn open(port: u16) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut client = Self {
            socket: BufReader::new(socket),
            decoder: Decoder::new(),
            window: INITIAL_WINDOW,
            stream: 1,
        };
        client.socket.get_mut().write_all(PREFACE).await?;
        // The initial window of a stream.
        let window = [&4u16.to_be_bytes()[..], &ENDLESS.to_be_bytes()].concat();
        client.write(SETTINGS, 0, 0, &window).await?;
        let more = ENDLESS - (1 << 16);
        client
            .write(WINDOW_UPDATE, 0, 0, &more.to_be_bytes())
            .await?;
        Ok(client)
    }

    /// Sends a request with these headers ahead of its own, and reads the answer.
    pub(crate) async fn send(
        &mut self,
        prefix: &str,
        request: &Request,
        more: &[(&str, String)],
    ) -> Result<Got> {
        let stream = self.stream;
        self.stream += 2;
        let mut block = Vec::new();
        literal(&mut block, ":method", request.method);
        literal(&mut block, ":scheme", "http");
        literal(&mut block, ":authority", "it");
        self.path(&mut block, &format!("{prefix}{}", request.target));
        for (name, value) in more {
            literal(&mut block, name, value);
        }
        for (name, value) in &request.headers {
            literal(&mut block, name, value);
        }
        let ends = request.body.is_empty();
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.write(HEADERS, flags, stream, &block).await?;
        let mut answer = Answer::default();
        let mut pieces = request.body.chunks(FRAME_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let length = i64::try_from(piece.len())?;
            while self.window < length && !answer.ended {
                self.read(stream, &mut answer).await?;
            }
            if answer.ended {
                break;
            }
            self.window -= length;
            let ends = if pieces.peek().is_none() {
                END_STREAM
            } else {
                0
            };
            self.write(DATA, ends, stream, piece).await?;
        }
        while !answer.ended {
            self.read(stream, &mut answer).await?;
        }
        let mut headers = answer.fields.context("no head")?;
        let status = headers.iter().position(|(name, _)| name == ":status");
        let (_, status) = headers.remove(status.context("no status")?);
        Ok(Got {
            status: status.parse()?,
            headers,
            body: answer.body,
        })
    }

    /// In the forms that clients use: the name spelled out, from the static table, and kept.
    fn path(&self, block: &mut Vec<u8>, value: &str) {
        match self.stream % 3 {
            0 => return literal(block, ":path", value),
            1 => block.push(0x04),
            _ => block.push(0x44),
        }
        string(block, &bytes(value));
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.socket.get_mut().write_all(&frame).await?;
        Ok(())
    }

    /// Reads a frame.
    async fn read(&mut self, stream: u32, answer: &mut Answer) -> Result<()> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let id = u32::from_be_bytes(id);
        let mut payload = vec![0; usize::try_from(length)?];
        self.socket.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await?,
            PING if flags & ACK == 0 => self.write(PING, ACK, 0, &payload).await?,
            WINDOW_UPDATE if id == 0 => {
                let more = u32::from_be_bytes(payload[..].try_into()?);
                self.window += i64::from(more);
            }
            GOAWAY => bail!("the connection was given up: {:?}", text(&payload)),
            DATA if id == stream => answer.body.extend(payload),
            HEADERS if id == stream => {
                let mut flags = flags;
                while flags & END_HEADERS == 0 {
                    flags = self.continuation(&mut payload).await?;
                }
                let fields = self.decoder.decode(&payload);
                let fields = fields.map_err(|error| anyhow::anyhow!("{error:?}"))?;
                let fields = fields.iter().map(|(name, value)| (text(name), text(value)));
                // What comes behind the body is dropped.
                answer.fields.get_or_insert_with(|| fields.collect());
            }
            RST_STREAM if id == stream => {
                ensure!(answer.fields.is_some(), "reset: {payload:?}");
                answer.ended = true;
            }
            _ => {}
        }
        if id == stream && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            answer.ended = true;
        }
        Ok(())
    }

    async fn continuation(&mut self, block: &mut Vec<u8>) -> Result<u8> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        ensure!(kind == CONTINUATION, "a frame of kind {kind} within a head");
        let from = block.len();
        let length = u32::from_be_bytes([0, a, b, c]);
        block.resize(from + usize::try_from(length)?, 0);
        self.socket.read_exact(&mut block[from..]).await?;
        Ok(flags)
    }
}

/// A field that is not kept, with all spelled out.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    string(block, &bytes(name));
    string(block, &bytes(value));
}

fn string(block: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 127 {
        block.extend(u8::try_from(rest));
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.extend(u8::try_from(rest % 128 + 128));
            rest /= 128;
        }
        block.extend(u8::try_from(rest));
    }
    block.extend(text);
}
