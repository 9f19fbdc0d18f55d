//! As much of Redis' protocol as it takes to find a master: commands, and short replies.
//!
//! Format: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::io;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// The longest line or text of a reply, in bytes.
const MAX_TEXT_BYTES: u64 = 4096;
/// The most parts of an array: a master names its replicas.
const MAX_PARTS: usize = 1024;
/// Arrays within arrays.
const MAX_DEPTH: usize = 4;

/// A connection on which one command is asked after the other.
#[derive(Debug)]
pub(super) struct Resp<S>(BufReader<S>);

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// Nothing.
    Null,
    /// A text, or a number as one.
    Text(String),
    /// Several.
    Array(Vec<Reply>),
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplyError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server refuses the command.
    #[error("{0}")]
    Refused(String),
    /// What came is no reply, or too long.
    #[error("not a reply of Redis")]
    Malformed,
}

impl Reply {
    /// Whether it is this text.
    pub(super) fn is_text(&self, text: &str) -> bool {
        matches!(self, Self::Text(it) if it == text)
    }

    /// So many texts, if it is these.
    pub(super) fn texts<const N: usize>(self) -> Option<[String; N]> {
        let Self::Array(parts) = self else {
            return None;
        };
        let texts = parts.into_iter().map(|part| match part {
            Self::Text(text) => Some(text),
            Self::Null | Self::Array(_) => None,
        });
        texts.collect::<Option<Vec<_>>>()?.try_into().ok()
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Resp<S> {
    pub(super) fn new(io: S) -> Self {
        Self(BufReader::new(io))
    }

    /// The connection; between a reply and the next command nothing is on its way.
    pub(super) fn into_inner(self) -> S {
        self.0.into_inner()
    }

    /// Sends a command and reads its reply.
    pub(super) async fn ask(&mut self, command: &[&str]) -> Result<Reply, ReplyError> {
        let mut text = format!("*{}\r\n", command.len());
        for part in command {
            text.push_str(&format!("${}\r\n{part}\r\n", part.len()));
        }
        self.0.write_all(text.as_bytes()).await?;
        self.0.flush().await?;
        self.read(MAX_DEPTH).await
    }

    async fn read(&mut self, depth: usize) -> Result<Reply, ReplyError> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).ok_or(ReplyError::Malformed)?;
        match kind {
            "+" | ":" => Ok(Reply::Text(rest.to_owned())),
            "-" => Err(ReplyError::Refused(rest.to_owned())),
            "$" => match length(rest)? {
                Some(length) => self.text(length).await,
                None => Ok(Reply::Null),
            },
            "*" => {
                let Some(count) = length(rest)? else {
                    return Ok(Reply::Null);
                };
                if count > MAX_PARTS || depth == 0 {
                    return Err(ReplyError::Malformed);
                }
                let mut parts = Vec::new();
                for _ in 0..count {
                    parts.push(Box::pin(self.read(depth - 1)).await?);
                }
                Ok(Reply::Array(parts))
            }
            _ => Err(ReplyError::Malformed),
        }
    }

    async fn line(&mut self) -> Result<String, ReplyError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.0).take(MAX_TEXT_BYTES);
        bounded.read_until(b'\n', &mut line).await?;
        let text = line.strip_suffix(b"\r\n").ok_or_else(|| broken(&line))?;
        String::from_utf8(text.to_vec()).map_err(|_| ReplyError::Malformed)
    }

    async fn text(&mut self, length: usize) -> Result<Reply, ReplyError> {
        if length as u64 > MAX_TEXT_BYTES {
            return Err(ReplyError::Malformed);
        }
        let mut text = vec![0; length + 2];
        self.0.read_exact(&mut text).await?;
        let text = text.strip_suffix(b"\r\n").ok_or(ReplyError::Malformed)?;
        let text = String::from_utf8(text.to_vec());
        text.map(Reply::Text).map_err(|_| ReplyError::Malformed)
    }
}

fn broken(line: &[u8]) -> ReplyError {
    if line.is_empty() {
        io::Error::from(io::ErrorKind::UnexpectedEof).into()
    } else {
        ReplyError::Malformed
    }
}

/// A length; -1 is none.
fn length(text: &str) -> Result<Option<usize>, ReplyError> {
    match text {
        "-1" => Ok(None),
        text => text.parse().map(Some).map_err(|_| ReplyError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(reply: &[u8]) -> Result<Reply, ReplyError> {
        let (here, mut there) = tokio::io::duplex(64 << 10);
        there.write_all(reply).await.unwrap();
        there.shutdown().await.unwrap();
        Resp::new(here).ask(&["ROLE"]).await
    }

    #[tokio::test]
    async fn replies_are_read_and_refusals_told() {
        let named = answer(b"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n")
            .await
            .unwrap();
        let role = answer(b"*3\r\n$6\r\nmaster\r\n:10\r\n*1\r\n*1\r\n$1\r\na\r\n").await;

        assert_eq!(
            named.texts(),
            Some(["127.0.0.1".to_owned(), "6379".to_owned()])
        );
        let Ok(Reply::Array(parts)) = role else {
            panic!("{role:?}")
        };
        assert!(parts[0].is_text("master"));
        assert_eq!(answer(b"*-1\r\n").await.unwrap(), Reply::Null);
        let refused = answer(b"-NOAUTH Authentication required.\r\n").await;
        assert!(matches!(refused, Err(ReplyError::Refused(why)) if why.contains("NOAUTH")));
    }

    #[tokio::test]
    async fn what_is_too_long_or_no_reply_is_not_read() {
        let nested = "*1\r\n".repeat(1000);
        let long = format!("+{}\r\n", "x".repeat(10_000));
        for reply in [
            "",
            "?\r\n",
            "+OK",
            "$999999999\r\n",
            "*9999999\r\n",
            &nested,
            &long,
        ] {
            assert!(answer(reply.as_bytes()).await.is_err(), "{reply:.20}");
        }
    }
}
