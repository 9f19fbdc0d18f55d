//! Whole text messages on a WebSocket whose handshake is done, as a server.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{self, MAX_HEADER, Opcode};

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

/// Reads a message of at most `limit` bytes in one frame.
///
/// # Errors
/// When the connection breaks, or the client sends anything else.
pub async fn read<R: AsyncRead + Unpin>(io: &mut R, limit: usize) -> io::Result<Message> {
    let mut header = [0; MAX_HEADER];
    io.read_exact(&mut header[..2]).await?;
    let length = frame::header_length(&header[..2]);
    io.read_exact(&mut header[2..length]).await?;
    let header = frame::parse(&header[..length]);
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let Some(mut mask) = header.mask else {
        return Err(invalid("an unmasked frame"));
    };
    if !header.fin || header.reserved || header.length > limit as u64 {
        return Err(invalid("a message that is too long or in pieces"));
    }
    // Memory is taken as bytes come: an announced length costs nothing.
    let mut bytes = Vec::new();
    (&mut *io)
        .take(header.length)
        .read_to_end(&mut bytes)
        .await?;
    if bytes.len() as u64 != header.length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    frame::apply_mask(&mut mask, &mut bytes);
    match header.opcode {
        Some(Opcode::Text) => Ok(Message::Text(bytes)),
        Some(Opcode::Ping) if bytes.len() < 126 => Ok(Message::Ping(bytes)),
        Some(Opcode::Pong) => Ok(Message::Pong),
        Some(Opcode::Close) => Ok(Message::Close),
        Some(Opcode::Ping | Opcode::Binary | Opcode::Continuation) | None => {
            Err(invalid("a message that is no text"))
        }
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

/// Ends it in order.
///
/// # Errors
/// When the connection breaks.
pub async fn close(io: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    write(io, Opcode::Close, &1000u16.to_be_bytes()).await
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

    #[tokio::test]
    async fn messages_are_read_one_by_one() {
        let long = vec![b'x'; 70_000];
        let sent = [masked(Opcode::Text, &long), masked(Opcode::Ping, b"a")].concat();
        let mut io = &sent[..];

        assert_eq!(read(&mut io, 1 << 20).await.unwrap(), Message::Text(long));
        let ping = Message::Ping(b"a".to_vec());
        assert_eq!(read(&mut io, 1 << 20).await.unwrap(), ping);
        assert!(read(&mut io, 1 << 20).await.is_err());
    }

    #[tokio::test]
    async fn what_is_no_short_masked_text_is_refused() {
        let mut unmasked = Vec::new();
        text(&mut unmasked, b"a").await.unwrap();
        for sent in [
            unmasked,
            masked(Opcode::Binary, b"a"),
            masked(Opcode::Text, &[0; 101]),
        ] {
            assert!(read(&mut &sent[..], 100).await.is_err());
        }
    }
}
