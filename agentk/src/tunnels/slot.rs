//! One place in the pool: opens a tunnel, waits for a call, carries it, again.

use std::time::Duration;

use http::{HeaderValue, Method, Request, header};
use proto::{
    agent::reverse_tunnel::rpc::{RequestInfo, connect_response::Msg},
    frame::Frame,
};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Inbound, Lost, Outbound, Tunnels, linger, pool::Next};
use crate::{
    backoff::HotLoop,
    graph, kubernetes_api,
    session::{Connection, Uplink, is_refusal, retry_after},
};

const PATH: &str = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";
/// Waits after failures: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// How long kas may take to end a tunnel after its call has ended.
const LAST_WORD: Duration = Duration::from_secs(60);

/// Where a place in the pool opens its tunnels.
#[derive(Debug)]
pub(super) enum Home {
    /// On one line, which thus always has a tunnel.
    Line(Uplink),
    /// Where the fewest idle tunnels are.
    Anywhere(Uplink),
}

impl Home {
    async fn connection(&self) -> Connection {
        match self {
            Self::Line(uplink) => uplink.connection().await,
            Self::Anywhere(uplink) => uplink.lightest().await,
        }
    }

    fn uplink(&self) -> &Uplink {
        match self {
            Self::Line(uplink) | Self::Anywhere(uplink) => uplink,
        }
    }
}

/// A tunnel that waits for a call.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) connection: Connection,
}

/// How one attempt ended.
enum Attempt {
    /// It carried a call.
    Served,
    /// It carried nothing.
    Idle(Lost),
    /// Another connection takes over; this tunnel is still good.
    Replaced(Box<Tunnel>),
    /// The agent stops.
    Stopped,
}

/// Opens tunnels, one after the other, as long as the pool wants this one.
pub(super) async fn run(tunnels: Tunnels, home: Home) {
    let shared = &tunnels.0;
    let mut hot = HotLoop::new(BACKOFF.0, BACKOFF.1);
    let mut used = None;
    loop {
        let connection = tokio::select! {
            connection = home.connection() => connection,
            () = shared.stop.cancelled() => break,
        };
        let begin = Instant::now();
        let delay = match attempt(&tunnels, &home, &connection).await {
            Attempt::Stopped => break,
            Attempt::Replaced(tunnel) => {
                shared.tasks.spawn(linger::run(tunnels.clone(), *tunnel));
                continue;
            }
            Attempt::Served => {
                used = Some(Instant::now());
                hot.reset();
                continue;
            }
            Attempt::Idle(end) => {
                let unused = used.map(|used: Instant| used.elapsed());
                if matches!(home, Home::Anywhere(_))
                    && tunnels.pool().idle_ended(unused) == Next::Stop
                {
                    tunnels.show();
                    return;
                }
                after(end, begin.elapsed(), &connection, &mut hot).await
            }
        };
        // Without this, a server that refuses streams at once would be asked for ever.
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shared.stop.cancelled() => break,
        }
    }
    tunnels.pool().gone();
    tunnels.show();
}

/// How long to wait after a tunnel that carried nothing.
async fn after(end: Lost, lived: Duration, connection: &Connection, hot: &mut HotLoop) -> Duration {
    match end {
        Lost::Ended(status) if in_order(&status) => hot.after_end(lived, rand::random()),
        Lost::Ended(status) => {
            connection.judge(&status);
            if !is_refusal(&status) && !connection.is_left() {
                tracing::warn!(%status, "kas ended a tunnel");
            }
            let asked = retry_after(&status).unwrap_or_default();
            let delay = if is_refusal(&status) {
                hot.after_refusal(rand::random())
            } else {
                hot.after_failure(lived, rand::random())
            };
            delay.max(asked)
        }
        Lost::Broken(status) if status.code() == Code::Cancelled => {
            hot.after_end(lived, rand::random())
        }
        // The session sees to the next connection.
        Lost::Broken(_) if connection.ends().await => Duration::ZERO,
        Lost::Broken(status) => {
            tracing::debug!(%status, "a tunnel broke");
            hot.after_failure(lived, rand::random())
        }
        Lost::Protocol(status) => {
            tracing::warn!(%status, "kas broke the protocol of tunnels");
            hot.after_failure(lived, rand::random())
        }
    }
}

fn in_order(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Ok | Code::Cancelled | Code::DeadlineExceeded
    )
}

async fn attempt(tunnels: &Tunnels, home: &Home, connection: &Connection) -> Attempt {
    let shared = &tunnels.0;
    let mut tunnel = match open(tunnels, connection).await {
        Ok(tunnel) => tunnel,
        Err(status) => return Attempt::Idle(Lost::Broken(status)),
    };
    let idle = connection.idle_tunnel();
    let info = tokio::select! {
        // A call that is here already is carried, whatever else happens.
        biased;
        info = begin(&mut tunnel.inbound) => match info {
            Ok(info) => info,
            Err(lost) => {
                tunnel.outbound.cancel();
                return Attempt::Idle(lost);
            }
        },
        () = home.uplink().other_than(connection) => {
            return Attempt::Replaced(Box::new(tunnel));
        }
        () = shared.stop.cancelled() => {
            tunnel.outbound.give_back();
            return Attempt::Stopped;
        }
    };
    drop(idle);
    tunnels.call_began();
    carry(tunnels, &info, tunnel).await;
    tunnels.call_ended();
    Attempt::Served
}

/// Carries a call to its end, unless the agent must stop at once.
pub(super) async fn carry(tunnels: &Tunnels, info: &RequestInfo, tunnel: Tunnel) {
    let Tunnel {
        mut inbound,
        mut outbound,
        connection,
    } = tunnel;
    connection.accept();
    tokio::select! {
        () = serve(tunnels, info, &mut inbound, &mut outbound) => {}
        () = tunnels.0.force.cancelled() => outbound.cancel(),
    }
}

async fn open(tunnels: &Tunnels, connection: &Connection) -> Result<Tunnel, Status> {
    let failed = |error: h2::Error| runtime::grpc::status_from(&error);
    let mut requests = connection.requests().ready().await.map_err(failed)?;
    let (response, mut stream) = requests
        .send_request(request(connection), false)
        .map_err(failed)?;
    let descriptor = Frame::raw(tunnels.0.descriptor.clone());
    stream.send_data(descriptor, false).map_err(failed)?;
    Ok(Tunnel {
        inbound: Inbound::new(response),
        outbound: Outbound::new(stream),
        connection: connection.clone(),
    })
}

fn request(connection: &Connection) -> Request<()> {
    let mut parts = connection.origin().clone().into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static(PATH));
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = http::Uri::from_parts(parts).expect("an origin and a path make a URI");
    let headers = request.headers_mut();
    headers.extend(connection.metadata().clone());
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(
        "grpc-accept-encoding",
        HeaderValue::from_static("identity,gzip"),
    );
    request
}

/// Waits for a call.
pub(super) async fn begin(inbound: &mut Inbound) -> Result<RequestInfo, Lost> {
    match inbound.next().await? {
        Some(Msg::RequestInfo(info)) => Ok(info),
        Some(Msg::Message(_) | Msg::CloseSend(_)) => unreachable!("the sequence was checked"),
        None => Err(Lost::Ended(Status::ok(""))),
    }
}

async fn serve(
    tunnels: &Tunnels,
    info: &RequestInfo,
    inbound: &mut Inbound,
    outbound: &mut Outbound,
) {
    let method = info.method_name.as_str();
    let result = match &tunnels.0.graph {
        _ if method == kubernetes_api::PATH || method == kubernetes_api::EXACT_PATH => {
            tunnels.0.api.make_request(inbound, outbound).await
        }
        Some(graph) if method == graph::PATH => graph.watch(inbound, outbound).await,
        Some(_) | None => Err(unknown(method).into()),
    };
    match result {
        Ok(()) => {}
        Err(kubernetes_api::Failure::Call(status)) => {
            tunnels.0.metrics.calls_failed.inc();
            tracing::debug!(%status, "a call failed");
            outbound.fail(&status);
        }
        Err(kubernetes_api::Failure::Tunnel(lost)) => {
            tunnels.0.metrics.calls_failed.inc();
            if let Lost::Protocol(status) = &lost {
                tracing::warn!(%status, "kas broke the protocol of tunnels");
            }
            outbound.cancel();
            return;
        }
    }
    if !inbound.drain(LAST_WORD).await {
        outbound.cancel();
    }
}

fn unknown(method: &str) -> Status {
    let (service, name) = method
        .trim_start_matches('/')
        .rsplit_once('/')
        .unwrap_or(("", method));
    if service == kubernetes_api::SERVICE {
        Status::unimplemented(format!("unknown method {name} for service {service}"))
    } else {
        Status::unimplemented(format!("unknown service {service}"))
    }
}
