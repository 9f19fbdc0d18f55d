//! What an agentk takes by itself: a server that does nothing but hand it a request and read the answer.
//!
//! `floor PORT SECONDS` waits for one agentk on ws://127.0.0.1:PORT, sends it `GET /json/4096`, one request at a time,
//! for so long after two seconds to warm up, and prints percentiles. `benches/floor` runs it.

#![allow(clippy::print_stdout, reason = "what it is for")]

use std::time::Duration;

use anyhow::{Context, Result, bail};
use h2::{RecvStream, server::SendResponse};
use hdrhistogram::Histogram;
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, http_request},
        prototool,
        reverse_tunnel::rpc::{
            CloseSend, ConnectRequest, ConnectResponse, Message, RequestInfo, connect_request,
            connect_response::Msg,
        },
    },
    frame::{Deframer, Encoding, Frame, FrameBuilder},
};
use runtime::{
    grpc::{ServerConnection, message, ok_trailers, response_headers, server_settings},
    io::ByteStream,
    listen::{AgentAcceptor, AgentAcceptorOptions, bind},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

const WARM_UP: Duration = Duration::from_secs(2);
/// How long the agentk may take to come, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);
const METHOD: &str = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";

/// An idle tunnel.
type Tunnel = (RecvStream, SendResponse<Frame>);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("usage: floor PORT SECONDS");
    let (port, seconds) = (next()?, Duration::from_secs(next()?.parse()?));
    let listener = bind(&format!("127.0.0.1:{port}")).await?;
    let (socket, peer) = timeout(PATIENCE, listener.accept()).await?;
    let acceptor = AgentAcceptor::new(AgentAcceptorOptions::default());
    let accepted = acceptor.accept(socket, peer).await?;
    let http2 = server_settings().handshake(accepted.io).await?;
    let (sender, mut tunnels) = mpsc::channel(100);
    let serving = tokio::spawn(serve(http2, sender));

    let began = Instant::now();
    let mut took = Histogram::<u64>::new(3)?;
    while began.elapsed() < WARM_UP + seconds {
        let tunnel = timeout(PATIENCE, tunnels.recv()).await?;
        let micros = ask(tunnel.context("the agentk went")?).await?.as_micros();
        if began.elapsed() > WARM_UP {
            took.record(u64::try_from(micros)?)?;
        }
    }
    serving.abort();
    let at = |percent| took.value_at_percentile(percent) as f64 / 1e3;
    let (p50, p90, p99) = (at(50.0), at(90.0), at(99.0));
    println!(
        "{} requests, p50 {p50:.3} ms, p90 {p90:.3} ms, p99 {p99:.3} ms",
        took.len()
    );
    Ok(())
}

/// Takes tunnels; leaves other calls without an answer.
async fn serve(mut http2: ServerConnection<ByteStream>, tunnels: mpsc::Sender<Tunnel>) {
    let mut held = Vec::new();
    while let Some(Ok((request, respond))) = http2.accept().await {
        if request.uri().path().ends_with("/Connect") {
            // When there are too many, which none is, one is dropped.
            let _ = tunnels.try_send((request.into_body(), respond));
        } else {
            held.push((request, respond));
        }
    }
}

/// Sends the request through a tunnel, and gives the time until the answer's end.
async fn ask((mut answer, mut respond): Tunnel) -> Result<Duration> {
    let mut deframer = Deframer::new(Encoding::Gzip);
    let descriptor = message(&mut answer, &mut deframer).await?;
    descriptor.context("a tunnel without a descriptor")?;
    let request = FrameBuilder::default()
        .message(&say(Msg::RequestInfo(RequestInfo {
            method_name: METHOD.into(),
            ..RequestInfo::default()
        })))
        .message(&http(http_request::Message::Header(http_request::Header {
            request: Some(prototool::HttpRequest {
                method: "GET".into(),
                url_path: "/json/4096".into(),
                ..prototool::HttpRequest::default()
            }),
            ..http_request::Header::default()
        })))
        .message(&http(http_request::Message::Trailer(
            http_request::Trailer {},
        )))
        .message(&say(Msg::CloseSend(CloseSend {})))
        .build();

    let sent = Instant::now();
    let mut stream = respond.send_response(response_headers(), false)?;
    stream.send_data(request, false)?;
    loop {
        let bytes = timeout(PATIENCE, message(&mut answer, &mut deframer)).await??;
        let bytes = bytes.context("the answer breaks off")?;
        match ConnectRequest::decode(bytes)?.msg {
            Some(connect_request::Msg::Trailer(_)) => break,
            Some(connect_request::Msg::Error(error)) => bail!("{error:?}"),
            _ => {}
        }
    }
    let took = sent.elapsed();
    stream.send_trailers(ok_trailers())?;
    Ok(took)
}

fn say(msg: Msg) -> ConnectResponse {
    ConnectResponse { msg: Some(msg) }
}

fn http(message: http_request::Message) -> ConnectResponse {
    let message = HttpRequest {
        message: Some(message),
    };
    say(Msg::Message(Message {
        data: message.encode_to_vec().into(),
    }))
}
