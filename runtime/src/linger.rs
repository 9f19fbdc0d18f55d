//! Closing a connection behind an answer that the client did not expect.

use std::{io, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long a client that is turned away gets to read why.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);

/// Closes the connection so that the client gets to read the answer: closing it
/// with unread bytes would reset it.
pub(crate) async fn close<S: AsyncRead + AsyncWrite + Unpin>(io: &mut S) -> io::Result<()> {
    io.flush().await?;
    io.shutdown().await?;
    let read_rest = async {
        let mut rest = [0; 1024];
        for _ in 0..64 {
            if !matches!(io.read(&mut rest).await, Ok(1..)) {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_TIMEOUT, read_rest).await;
    Ok(())
}
