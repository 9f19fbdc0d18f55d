//! An upgraded connection (exec, attach, port-forward): bytes both ways.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::Response;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use super::{batch::Batch, respond, unavailable};
use crate::{
    call::{CallError, Outbound},
    metrics::Metrics,
};

/// Bytes read at a time.
const READ_BYTES: usize = 32 << 10;

/// Passes the response on and then bytes, until the API server closes the connection. When kas half-closes, so does
/// the agent.
pub(super) async fn run(
    outbound: &mut Outbound,
    mut response: Response<Incoming>,
    from_kas: mpsc::Receiver<Bytes>,
    metrics: &Metrics,
) -> Result<(), CallError> {
    let upgrading = hyper::upgrade::on(&mut response);
    let upgraded = outbound.unless_reset(upgrading).await?;
    let io = TokioIo::new(upgraded.map_err(|error| unavailable(&error))?);
    let mut batch = Batch::new();
    batch.header(outbound, respond::of_response(response.into_parts().0));
    batch.trailer(outbound);
    batch.flush(outbound).await?;

    let (read, write) = tokio::io::split(io);
    let mut to_cluster = pin!(to_cluster(write, from_kas));
    let mut to_kas = pin!(to_kas(read, outbound, metrics));
    tokio::select! {
        done = &mut to_kas => done,
        () = &mut to_cluster => to_kas.await,
    }
}

/// A connection that cannot be written to may still have something to say, so
/// errors show where it is read.
async fn to_cluster(mut write: impl AsyncWrite + Unpin, mut from_kas: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = from_kas.recv().await {
        if write.write_all(&bytes).await.is_err() {
            return;
        }
        if from_kas.is_empty() && write.flush().await.is_err() {
            return;
        }
    }
    let _ = write.shutdown().await;
}

async fn to_kas(
    mut read: impl AsyncRead + Unpin,
    outbound: &mut Outbound,
    metrics: &Metrics,
) -> Result<(), CallError> {
    let mut buffer = BytesMut::new();
    let mut batch = Batch::new();
    loop {
        buffer.reserve(READ_BYTES);
        let reading = read.read_buf(&mut buffer);
        let count = outbound.unless_reset(reading).await?;
        if count.map_err(|error| unavailable(&error))? == 0 {
            return Ok(batch.end(outbound)?);
        }
        metrics.bytes_sent.inc_by(buffer.len() as u64);
        batch.upgrade_data(outbound, buffer.split().freeze());
        batch.flush(outbound).await?;
    }
}
