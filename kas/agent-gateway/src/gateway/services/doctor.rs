//! `Doctor.Hold`: `agentk doctor` looks what the way to kas does to streams. Nothing of it is kept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::{
    bounds::Bounds,
    doctor::rpc::{HoldRequest, HoldResponse},
};
use router::AgentId;
use runtime::{
    grpc::receive,
    shares::{Limits, Shares},
};
use tonic::Status;

use super::super::service::{Bidirectional, Call, Method, Responses, code};

/// The longest silence.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// Streams that are held at a time, by agent: a doctor has three.
const HELD: Limits = Limits {
    total: 64,
    each: 8,
    reserved: 16,
};
const NAME: &str = "Hold";

struct Hold {
    held: Shares<AgentId>,
}

/// A doctor looks by it what becomes of a stream that is silent.
pub(super) fn hold() -> Method {
    Method::bidirectional(Hold {
        held: Shares::new(HELD),
    })
}

impl Bidirectional for Hold {
    const PATH: &'static str = "/gitlab.agent.kas_doctor.rpc.Doctor/Hold";
    /// More than load balancers pass on unless they are told to.
    const BOUNDS: Bounds = Bounds::bytes(2 << 20);

    async fn serve(&self, call: Call) {
        let Call {
            identity,
            request,
            respond,
            permit,
            ..
        } = call;
        let mut responses = Responses::Unopened(respond);
        let served = async {
            let held = self.held.take(identity.agent.id, 1);
            let _held = held.map_err(|full| {
                Status::resource_exhausted(format!("too many doctors at work: {full}"))
            })?;
            let (head, mut stream) = request.into_parts();
            let HoldRequest { silence_ms, .. } =
                receive(&head.headers, &mut stream, &Self::BOUNDS).await?;
            permit.received();
            responses.open()?;
            responses.send(&now()).await?;
            permit.sent();
            let silence = Duration::from_millis(silence_ms.into()).min(SILENCE_MAX);
            tokio::select! {
                () = tokio::time::sleep(silence) => {}
                () = identity.caller.streams_end.cancelled() => {
                    return Err(Status::unavailable("this replica ends the connection"));
                }
                gone = responses.gone() => return Err(gone),
            }
            responses.send(&now()).await?;
            permit.sent();
            Ok(())
        };
        let ended = served.await;
        permit.ends(code(&ended));
        responses.end(ended, NAME);
    }
}

fn now() -> HoldResponse {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    HoldResponse {
        time_ms: i64::try_from(millis).unwrap_or(i64::MAX),
    }
}
