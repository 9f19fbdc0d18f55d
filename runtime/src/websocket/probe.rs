//! Whether the other end answers a ping, for doctors.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{self, MAX_CONTROL, MAX_HEADER, Opcode};

/// Bytes of messages before the pong that are skipped.
const MAX_SKIPPED_BYTES: u64 = 64 << 10;

/// Sends a ping on a client's WebSocket whose handshake is done, and waits for the pong. The caller has a deadline.
pub(crate) async fn answers_ping<S>(io: &mut S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let payload: [u8; 8] = rand::random();
    let mask: [u8; 4] = rand::random();
    let mut header = [0; MAX_HEADER];
    let end = frame::encode(Opcode::Ping, payload.len(), Some(mask), &mut header);
    let masked: Vec<u8> = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    io.write_all(&[&header[..end], &masked].concat()).await?;
    io.flush().await?;
    loop {
        let mut header = [0; MAX_HEADER];
        io.read_exact(&mut header[..2]).await?;
        let length = frame::header_length(&header[..2]);
        io.read_exact(&mut header[2..length]).await?;
        let header = frame::parse(&header[..length]);
        if header.length > MAX_SKIPPED_BYTES {
            return Err(other("a message came in place of the pong"));
        }
        let mut content = Vec::with_capacity(MAX_CONTROL);
        let read = io.take(header.length).read_to_end(&mut content).await?;
        match header.opcode {
            Some(Opcode::Pong) if content == payload => return Ok(()),
            Some(Opcode::Close) => return Err(other("the WebSocket was closed")),
            _ if (read as u64) < header.length => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}

/// Sends a message of no meaning on a client's WebSocket whose handshake is done, and waits for anything that comes back.
/// The caller has a deadline.
pub(crate) async fn answers_message<S>(io: &mut S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut header = [0; MAX_HEADER];
    let end = frame::encode(Opcode::Text, 0, Some(rand::random()), &mut header);
    io.write_all(&header[..end]).await?;
    io.flush().await?;
    io.read_exact(&mut [0; 2]).await?;
    Ok(())
}

fn other(why: &'static str) -> io::Error {
    io::Error::other(why)
}
