//! A call whose connection became something else: bytes both ways until either side leaves.

use std::io;

use bytes::BytesMut;
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, http_request, http_response},
        prototool,
        reverse_tunnel::rpc::{ConnectResponse, Trailer, connect_request, connect_response::Msg},
    },
    frame::{Frame, FrameBuilder},
    metadata::entry,
};
use runtime::{
    grpc::{SendStream, send_frame},
    websocket::handshake::accept_key,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    call::{self, Call, MESSAGE, header, message, payload, to_kas},
    rpc::{Failure, Inbound},
};
use crate::script;

/// Longest piece of what is said.
const PIECE_BYTES: usize = 32 << 10;
/// `ConnectRequest.message`, `Message.data`, `HttpResponse.upgradeData`, `UpgradeData.data`.
const UPGRADED: &[u32] = &[3, 1, 4, 1];

/// Answers as `script::echo` does; gives how many bytes it said.
pub(super) async fn echo(head: &prototool::HttpRequest, call: Call) -> Result<u64, Failure> {
    let Some(key) = header(head, "sec-websocket-key") else {
        return Err(Failure::Protocol("an exec that is no WebSocket"));
    };
    let headers = [
        entry("Connection", ["Upgrade"]),
        entry("Upgrade", ["websocket"]),
        entry("Sec-Websocket-Accept", [accept_key(key)]),
    ];
    let head = call::head(prototool::HttpResponse {
        status_code: 101,
        status: "101 Switching Protocols".into(),
        header: headers.into(),
    });
    let (near, far) = tokio::io::duplex(2 * PIECE_BYTES);
    let echoing = async {
        // A client that breaks off is no failure of the agent.
        let _ = script::echo(far).await;
    };
    let (sent, ()) = tokio::join!(carry(call, head, near), echoing);
    sent
}

/// Sends the head, then carries bytes between kas and `io`; gives how many went to kas.
pub(super) async fn carry(
    call: Call,
    head: FrameBuilder,
    io: impl AsyncRead + AsyncWrite,
) -> Result<u64, Failure> {
    let Call { mut send, inbound } = call;
    let trailer = http_response::Message::Trailer(http_response::Trailer {});
    send_frame(&mut send, head.nested(MESSAGE, message(trailer)).build()).await?;
    let (hears, says) = tokio::io::split(io);
    let (sent, ()) = tokio::try_join!(to_kas_from(hears, send), from_kas_to(says, inbound))?;
    Ok(sent)
}

async fn to_kas_from(
    mut from: impl AsyncRead + Unpin,
    mut send: SendStream,
) -> Result<u64, Failure> {
    let mut sent = 0;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        if from.read_buf(&mut piece).await? == 0 {
            break;
        }
        sent += piece.len() as u64;
        let frame = Frame::nested(UPGRADED, payload(piece.freeze()));
        send_frame(&mut send, frame).await?;
    }
    let end = connect_request::Msg::Trailer(Trailer::default());
    send.send_data(Frame::message(&to_kas(end)), true)?;
    Ok(sent)
}

async fn from_kas_to(mut to: impl AsyncWrite + Unpin, mut inbound: Inbound) -> Result<(), Failure> {
    while let Some(message) = inbound.message().await? {
        match ConnectResponse::decode(message)?.msg {
            Some(Msg::Message(message)) => {
                let message = HttpRequest::decode(message.data)?.message;
                let Some(http_request::Message::UpgradeData(data)) = message else {
                    return Err(Failure::Protocol("no bytes of an upgraded connection"));
                };
                // Whoever listened has left: what follows is for nobody.
                let _ = to.write_all(&data.data).await;
            }
            Some(Msg::CloseSend(_)) => {
                let _ = to.shutdown().await;
            }
            Some(Msg::RequestInfo(_)) | None => {
                return Err(Failure::Protocol("not a message of a call"));
            }
        }
    }
    Ok(())
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Self {
        Self::Protocol("an upgraded connection broke")
    }
}
