//! One tunnel: opened, idle until a call comes, and the carrier of that call.

use std::{pin::pin, time::Duration};

use proto::agent::reverse_tunnel::rpc::{RequestInfo, connect_response::Msg};
use runtime::traces::TraceParent;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tracing::Instrument as _;

use super::Tunnels;
use crate::{
    call::{CallError, Inbound, Outbound, TunnelError},
    session::Connection,
};

/// The metadata by which kas is told which cluster the tunnel leads to. Our own: GitLab's kas does not look at it.
const CLUSTER: &str = "kas-cluster";
/// The metadata by which kas names the request that a call belongs to.
const REQUEST_ID: &str = "x-request-id";
/// How long kas may take to end a tunnel after its call has ended.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a call may take to say why it ends when the agent must stop at once.
const LAST_WORD: Duration = Duration::from_millis(200);

/// A tunnel that waits for a call.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) connection: Connection,
}

/// Opens a tunnel.
pub(super) async fn open(tunnels: &Tunnels, connection: &Connection) -> Result<Tunnel, Status> {
    let cluster = tunnels.0.facts.identity().await;
    let (requests, origin) = (connection.requests(), connection.origin());
    let (mut metadata, descriptor) = (connection.metadata().clone(), &tunnels.0.descriptor);
    metadata.insert(CLUSTER, cluster);
    let (inbound, outbound) =
        runtime::tunnel::open(requests, origin, metadata, descriptor.clone()).await?;
    Ok(Tunnel {
        inbound,
        outbound,
        connection: connection.clone(),
    })
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
        inbound.belongs_to(TraceParent::of_metadata(&info.meta));
        let request_id = info.meta.get(REQUEST_ID).and_then(|it| it.value.first());
        let agent_id = tunnels.agent_id();
        let span = tracing::info_span!("request", request_id, agent.id = agent_id);
        let serving = serve(tunnels, &info.method_name, &mut inbound, &mut outbound);
        let ended = {
            let mut serving = pin!(serving.instrument(span));
            tokio::select! {
                () = &mut serving => true,
                () = tunnels.0.force.cancelled() => timeout(LAST_WORD, serving).await.is_ok(),
            }
        };
        if !ended {
            outbound.cancel();
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
