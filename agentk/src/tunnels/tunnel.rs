//! One tunnel: opened, idle until a call comes, and the carrier of that call.

use std::time::Duration;

use http::{HeaderValue, Method, Request, header};
use proto::{
    agent::reverse_tunnel::rpc::{RequestInfo, connect_response::Msg},
    frame::Frame,
};
use tokio::time::Instant;
use tonic::Status;
use tracing::Instrument as _;

use super::Tunnels;
use crate::{
    call::{CallError, Inbound, Outbound, TunnelError},
    session::Connection,
};

const PATH: &str = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";
/// The metadata by which kas names the request that a call belongs to.
const REQUEST_ID: &str = "x-request-id";
/// How long kas may take to end a tunnel after its call has ended.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// A tunnel that waits for a call.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) connection: Connection,
}

/// Opens a tunnel.
pub(super) async fn open(tunnels: &Tunnels, connection: &Connection) -> Result<Tunnel, Status> {
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

impl Tunnel {
    /// Waits for a call. Cancel-safe.
    pub(super) async fn call(&mut self) -> Result<RequestInfo, TunnelError> {
        match self.inbound.next().await? {
            Some(Msg::RequestInfo(info)) => Ok(info),
            Some(Msg::Message(_) | Msg::CloseSend(_)) => unreachable!("the sequence was checked"),
            None => Err(TunnelError::Ended(Status::ok(""))),
        }
    }

    /// Carries a call to its end, unless the agent must stop at once.
    pub(super) async fn carry(self, tunnels: &Tunnels, info: &RequestInfo) {
        let Self {
            mut inbound,
            mut outbound,
            connection,
        } = self;
        connection.mark_accepted();
        let request_id = info.meta.get(REQUEST_ID).and_then(|it| it.value.first());
        let agent_id = tunnels.agent_id();
        let span = tracing::info_span!("request", request_id, agent.id = agent_id);
        let serving = serve(tunnels, &info.method_name, &mut inbound, &mut outbound);
        tokio::select! {
            () = serving.instrument(span) => {}
            () = tunnels.0.force.cancelled() => outbound.cancel(),
        }
    }
}

async fn serve(tunnels: &Tunnels, method: &str, inbound: &mut Inbound, outbound: &mut Outbound) {
    let started = Instant::now();
    let result = match tunnels.0.services.find(method) {
        Ok(service) => service.serve(inbound, outbound).await,
        Err(status) => Err(status.into()),
    };
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(()) => tracing::debug!(method, status = "OK", duration_ms, "call served"),
        Err(CallError::Failed(status)) => {
            tunnels.0.metrics.calls_failed.inc();
            let error = status.message();
            tracing::debug!(method, status = ?status.code(), duration_ms, error, "call failed");
            outbound.fail(&status);
        }
        Err(CallError::Tunnel(error)) => {
            tunnels.0.metrics.calls_failed.inc();
            if matches!(error, TunnelError::Protocol(_)) {
                tracing::warn!(%error, method, "tunnel closed");
            } else {
                tracing::debug!(%error, method, duration_ms, "tunnel lost before its call ended");
            }
            outbound.cancel();
            return;
        }
    }
    if !inbound.drain(END_TIMEOUT).await {
        outbound.cancel();
    }
}
