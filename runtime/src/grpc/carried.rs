//! A byte stream that a gRPC call carries, in either direction of the call.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt, stream};
use proto::receptive::rpc::{Chunk, receptive_client::ReceptiveClient};
use tokio::sync::mpsc;
use tokio_util::{
    io::{CopyToBytes, SinkWriter, StreamReader},
    sync::PollSender,
};
use tonic::{Code, Status};

use super::{Channel, FormerNames};
use crate::io::ByteStream;

/// Chunks that wait for the call's flow control, at most.
const QUEUE: usize = 4;

/// What is written to a carried stream, on its way into the call.
#[derive(Debug)]
pub struct Outgoing(mpsc::Sender<Bytes>);

/// The sending side of a stream that is to be carried, and what the call sends
/// for it.
pub fn outgoing() -> (Outgoing, impl Stream<Item = Chunk> + Send + use<>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let chunks = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Bytes>| {
        let data = receiver.recv().await?;
        Some((Chunk { data }, receiver))
    });
    (Outgoing(sender), chunks)
}

/// The stream that a call carries: read from what comes in, and written to what
/// goes out. It ends with the call.
#[must_use]
pub fn carried(
    incoming: impl Stream<Item = Result<Chunk, Status>> + Send + Unpin + 'static,
    outgoing: Outgoing,
) -> ByteStream {
    let read = incoming.map(|chunk| chunk.map(|it| it.data).map_err(io::Error::other));
    let write = PollSender::new(outgoing.0);
    let write = write.sink_map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
    ByteStream::boxed(tokio::io::join(
        StreamReader::new(read),
        SinkWriter::new(CopyToBytes::new(write)),
    ))
}

/// Has the other end carry a stream; one of an older version knows the call by its former name.
///
/// # Errors
/// Why it refuses.
pub async fn attach(channel: Channel) -> Result<ByteStream, Status> {
    let (sender, chunks) = outgoing();
    let attached = match ReceptiveClient::new(channel.clone()).attach(chunks).await {
        Ok(attached) => carried(attached.into_inner(), sender),
        Err(status) if status.code() == Code::Unimplemented => {
            let (sender, chunks) = outgoing();
            let mut client = ReceptiveClient::new(FormerNames(channel));
            carried(client.attach(chunks).await?.into_inner(), sender)
        }
        Err(status) => return Err(status),
    };
    Ok(attached)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn bytes_arrive_as_they_were_written_and_the_end_is_seen() {
        let (to_there, here_to_there) = outgoing();
        let (to_here, there_to_here) = outgoing();
        let (here_to_there, there_to_here) = (here_to_there.map(Ok), there_to_here.map(Ok));
        let mut here = carried(Box::pin(there_to_here), to_there);
        let mut there = carried(Box::pin(here_to_there), to_here);
        let sent: Vec<u8> = (0..300_000u32).map(|it| it as u8).collect();

        let mut got = Vec::new();
        let (written, read) = tokio::join!(
            async {
                here.write_all(&sent).await?;
                here.shutdown().await
            },
            there.read_to_end(&mut got)
        );

        written.unwrap();
        assert_eq!(read.unwrap(), sent.len());
        assert!(got == sent);
    }
}
