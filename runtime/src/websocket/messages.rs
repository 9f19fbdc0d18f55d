//! Whole text messages on a WebSocket whose handshake is done, as a server.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{self, Header, MAX_CONTROL, MAX_HEADER, Opcode};

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Text, if it is such.
    Text(Vec<u8>),
    /// To be answered with the same bytes by [`pong`].
    Ping(Vec<u8>),
    /// An answer to [`ping`].
    Pong,
    /// The client ends it.
    Close,
}

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is longer than allowed, in bytes; nothing of it was kept.
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
    /// It is binary.
    #[error("a message that is no text")]
    NotText,
    /// What came is no WebSocket.
    #[error("{0}")]
    Protocol(&'static str),
}

impl ReadError {
    /// With which code the WebSocket ends.
    #[must_use]
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::Io(_) | Self::Protocol(_) => CloseCode::Protocol,
            Self::TooLong(_) => CloseCode::TooBig,
            Self::NotText => CloseCode::Unsupported,
        }
    }
}

/// Why a WebSocket ends (RFC 6455, 7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// All is said.
    Normal,
    /// The server leaves.
    GoingAway,
    /// The other side broke the protocol.
    Protocol,
    /// The other side sent data of a kind that is not taken.
    Unsupported,
    /// The other side sent or asked for what is not allowed.
    Policy,
    /// A message is too long.
    TooBig,
    /// The server cannot go on.
    Internal,
}

impl CloseCode {
    fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::Policy => 1008,
            Self::TooBig => 1009,
            Self::Internal => 1011,
        }
    }
}

/// What a client sends. Messages may come in pieces, with pings between them.
#[derive(Debug)]
pub struct Incoming<R> {
    io: R,
    /// The beginning of a message that is not whole.
    begun: Option<Vec<u8>>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    /// What comes from `io`, whose handshake is done.
    pub fn new(io: R) -> Self {
        Self { io, begun: None }
    }

    /// The next message, of at most `limit` bytes. Not cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`], after which nothing can be read.
    pub async fn next(&mut self, limit: usize) -> Result<Message, ReadError> {
        loop {
            let header = self.header().await?;
            let Some(mask) = header.mask else {
                return Err(ReadError::Protocol("an unmasked frame"));
            };
            if header.reserved {
                return Err(ReadError::Protocol("a frame of an extension"));
            }
            match header.opcode {
                Some(Opcode::Ping | Opcode::Pong | Opcode::Close) => {
                    return self.control(&header, mask).await;
                }
                Some(Opcode::Text) if self.begun.is_none() => {}
                Some(Opcode::Continuation) if self.begun.is_some() => {}
                Some(Opcode::Binary) => return Err(ReadError::NotText),
                Some(Opcode::Text | Opcode::Continuation) | None => {
                    return Err(ReadError::Protocol(
                        "a frame that does not fit those before",
                    ));
                }
            }
            let mut bytes = self.begun.take().unwrap_or_default();
            let room = limit.saturating_sub(bytes.len());
            if header.length > room as u64 {
                return Err(ReadError::TooLong(limit));
            }
            self.payload(header.length, mask, &mut bytes).await?;
            if header.fin {
                return Ok(Message::Text(bytes));
            }
            self.begun = Some(bytes);
        }
    }

    async fn header(&mut self) -> io::Result<Header> {
        let mut header = [0; MAX_HEADER];
        self.io.read_exact(&mut header[..2]).await?;
        let length = frame::header_length(&header[..2]);
        self.io.read_exact(&mut header[2..length]).await?;
        Ok(frame::parse(&header[..length]))
    }

    async fn control(&mut self, header: &Header, mask: [u8; 4]) -> Result<Message, ReadError> {
        if !header.fin || header.length >= 126 {
            return Err(ReadError::Protocol(
                "a control frame that is too long or in pieces",
            ));
        }
        let mut bytes = Vec::new();
        self.payload(header.length, mask, &mut bytes).await?;
        Ok(match header.opcode {
            Some(Opcode::Ping) => Message::Ping(bytes),
            Some(Opcode::Pong) => Message::Pong,
            _ => Message::Close,
        })
    }

    /// Memory is taken as bytes come: an announced length costs nothing.
    async fn payload(
        &mut self,
        length: u64,
        mut mask: [u8; 4],
        bytes: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let before = bytes.len();
        (&mut self.io).take(length).read_to_end(bytes).await?;
        if (bytes.len() - before) as u64 != length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        frame::apply_mask(&mut mask, &mut bytes[before..]);
        Ok(())
    }
}

/// Writes a text message.
///
/// # Errors
/// When the connection breaks.
pub async fn text(io: &mut (impl AsyncWrite + Unpin), text: &[u8]) -> io::Result<()> {
    write(io, Opcode::Text, text).await
}

/// Asks the client whether it is there.
///
/// # Errors
/// When the connection breaks.
pub async fn ping(io: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    write(io, Opcode::Ping, &[]).await
}

/// Answers a ping.
///
/// # Errors
/// When the connection breaks.
pub async fn pong(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    write(io, Opcode::Pong, bytes).await
}

/// Writes a binary message.
///
/// # Errors
/// When the connection breaks.
pub async fn binary(io: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    write(io, Opcode::Binary, bytes).await
}

/// Ends it, for this reason, which is cut where it is too long.
///
/// # Errors
/// When the connection breaks.
pub async fn close(
    io: &mut (impl AsyncWrite + Unpin),
    code: CloseCode,
    reason: &str,
) -> io::Result<()> {
    let code = code.number().to_be_bytes();
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL - code.len())];
    write(io, Opcode::Close, &[&code, reason.as_bytes()].concat()).await
}

async fn write(io: &mut (impl AsyncWrite + Unpin), opcode: Opcode, bytes: &[u8]) -> io::Result<()> {
    let mut header = [0; MAX_HEADER];
    let length = frame::encode(opcode, bytes.len(), None, &mut header);
    io.write_all(&header[..length]).await?;
    io.write_all(bytes).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(opcode: Opcode, bytes: &[u8]) -> Vec<u8> {
        let mut header = [0; MAX_HEADER];
        let mut mask = [1, 2, 3, 4];
        let length = frame::encode(opcode, bytes.len(), Some(mask), &mut header);
        let mut all = header[..length].to_vec();
        let mut bytes = bytes.to_vec();
        frame::apply_mask(&mut mask, &mut bytes);
        all.extend(bytes);
        all
    }

    /// A frame behind which the message goes on.
    fn piece(opcode: Opcode, bytes: &[u8]) -> Vec<u8> {
        let mut frame = masked(opcode, bytes);
        frame[0] &= 0x7F;
        frame
    }

    #[tokio::test]
    async fn messages_are_read_one_by_one() {
        let long = vec![b'x'; 70_000];
        let sent = [masked(Opcode::Text, &long), masked(Opcode::Ping, b"a")].concat();
        let mut incoming = Incoming::new(&sent[..]);

        assert_eq!(incoming.next(1 << 20).await.unwrap(), Message::Text(long));
        let ping = Message::Ping(b"a".to_vec());
        assert_eq!(incoming.next(1 << 20).await.unwrap(), ping);
        assert!(incoming.next(1 << 20).await.is_err());
    }

    #[tokio::test]
    async fn a_message_in_pieces_is_read_whole_with_pings_between_them() {
        let sent = [
            piece(Opcode::Text, b"ab"),
            masked(Opcode::Ping, b"!"),
            piece(Opcode::Continuation, b"cd"),
            masked(Opcode::Continuation, b""),
            masked(Opcode::Text, b"next"),
        ];
        let sent = sent.concat();
        let mut incoming = Incoming::new(&sent[..]);

        let ping = Message::Ping(b"!".to_vec());
        assert_eq!(incoming.next(4).await.unwrap(), ping);
        let whole = Message::Text(b"abcd".to_vec());
        assert_eq!(incoming.next(4).await.unwrap(), whole);
        let next = Message::Text(b"next".to_vec());
        assert_eq!(incoming.next(4).await.unwrap(), next);
    }

    #[tokio::test]
    async fn what_is_no_short_masked_text_is_refused_with_its_code() {
        let mut unmasked = Vec::new();
        text(&mut unmasked, b"a").await.unwrap();
        let pieces = [
            piece(Opcode::Text, &[0; 60]),
            masked(Opcode::Continuation, &[0; 60]),
        ];
        for (sent, code) in [
            (unmasked, CloseCode::Protocol),
            (masked(Opcode::Binary, b"a"), CloseCode::Unsupported),
            (masked(Opcode::Text, &[0; 101]), CloseCode::TooBig),
            (pieces.concat(), CloseCode::TooBig),
            (masked(Opcode::Continuation, b"a"), CloseCode::Protocol),
            (piece(Opcode::Ping, b"a"), CloseCode::Protocol),
        ] {
            let refused = Incoming::new(&sent[..]).next(100).await.unwrap_err();
            assert_eq!(refused.close_code(), code, "{refused}");
        }
    }
}
