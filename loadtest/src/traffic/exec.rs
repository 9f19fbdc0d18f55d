//! What is said on an upgraded connection, as by somebody at a terminal: each line is waited for.

use std::{io, time::Duration};

use http::Response;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use runtime::websocket::{Role, WebSocket};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::sleep,
};

use super::client::Failed;
use crate::content;

/// Lines that must come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exec {
    pub(crate) lines: u64,
    /// Bytes of each, up to those of a piece of the pattern.
    pub(crate) bytes: usize,
    /// The pause after each.
    pub(crate) every: Duration,
}

impl Exec {
    /// The time that the pauses take.
    pub(super) fn scripted(self) -> Duration {
        self.every
            .saturating_mul(u32::try_from(self.lines).unwrap_or(u32::MAX))
    }

    /// Says all lines on the connection that this answer leaves; gives how many bytes came back.
    pub(super) async fn talk(self, response: Response<Incoming>) -> Result<u64, Failed> {
        let upgraded = hyper::upgrade::on(response).await?;
        let socket = WebSocket::new(TokioIo::new(upgraded), Role::Client, None);
        self.say(socket).await
    }

    async fn say(self, socket: impl AsyncRead + AsyncWrite) -> Result<u64, Failed> {
        let (mut hears, mut says) = tokio::io::split(socket);
        let mut heard = vec![0; self.bytes.min(content::MAX_PIECE_BYTES)];
        for line in 0..self.lines {
            let said = content::pattern(line * heard.len() as u64, heard.len());
            let saying = async {
                says.write_all(&said).await?;
                says.flush().await
            };
            tokio::try_join!(saying, hears.read_exact(&mut heard))?;
            if heard != said {
                return Err(Failed::new("exec: wrong bytes"));
            }
            sleep(self.every).await;
        }
        says.shutdown().await?;
        match hears.read(&mut heard).await? {
            0 => Ok(self.lines * heard.len() as u64),
            _ => Err(Failed::new("exec: more than was said")),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Self::new("exec: connection lost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script;

    const EXEC: Exec = Exec {
        lines: 3,
        bytes: 40_000,
        every: Duration::ZERO,
    };

    async fn talk_to<F: Future<Output = ()>>(
        server: impl FnOnce(tokio::io::DuplexStream) -> F,
    ) -> Result<u64, String> {
        let (near, far) = tokio::io::duplex(1000);
        let client = EXEC.say(WebSocket::new(near, Role::Client, None));
        let (said, ()) = tokio::join!(client, server(far));
        said.map_err(|failed| failed.kind)
    }

    #[tokio::test]
    async fn whatever_is_said_comes_back() {
        let said = talk_to(async |far| script::echo(far).await.unwrap()).await;

        assert_eq!(said, Ok(120_000));
    }

    #[tokio::test]
    async fn other_bytes_and_early_ends_are_noticed() {
        let liar = async |far| {
            let mut socket = WebSocket::new(far, Role::Server, None);
            let mut heard = vec![0; EXEC.bytes];
            socket.read_exact(&mut heard).await.unwrap();
            heard[17] ^= 1;
            socket.write_all(&heard).await.unwrap();
            socket.flush().await.unwrap();
        };
        let leaver = async |far| drop(far);

        assert_eq!(talk_to(liar).await, Err("exec: wrong bytes".to_owned()));
        assert_eq!(
            talk_to(leaver).await,
            Err("exec: connection lost".to_owned())
        );
    }
}
