//! The beginning of a tunnel: `ReverseTunnel.Connect`, up to its descriptor.

use std::sync::Arc;

use http::Request;
use proto::frame::MAX_MESSAGE;
use router::tunnel::{Offer, Stream};
use runtime::grpc::{MESSAGE_TIMEOUT, SendResponse, deframer, first_message};
use tonic::Status;

use super::{
    AgentApi,
    caller::{Known, Place},
    offers::DESCRIPTOR,
    version,
};

/// A call that was refused: where to say so, and what.
pub(super) type Refused = (SendResponse, Status);

/// Reads what a tunnel of a known agent offers.
pub(super) async fn open(
    api: Arc<AgentApi>,
    known: Known,
    place: Place,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
) -> Result<(Offer, Stream, Place), Refused> {
    let (head, mut recv) = request.into_parts();
    let read = async {
        let mut deframer = deframer(&head.headers, DESCRIPTOR.bytes)?;
        let message = first_message(&mut recv, &mut deframer).await?;
        let read = || api.offers.read(message.clone());
        let methods = known.caller.offer(&api.fingerprints, &message, read)?;
        deframer.set_limit(MAX_MESSAGE);
        let abilities = version::abilities(&head.headers);
        let offer = Offer {
            agent: known.agent.id,
            methods,
            impersonates: abilities.impersonates,
            upgrades: abilities.upgrades,
        };
        Ok((offer, deframer))
    };
    match tokio::time::timeout(MESSAGE_TIMEOUT, read).await {
        Ok(Ok((offer, deframer))) => {
            let stream = Stream {
                recv,
                deframer,
                respond,
            };
            Ok((offer, stream, place))
        }
        Ok(Err(status)) => Err((respond, status)),
        Err(_) => Err((
            respond,
            Status::deadline_exceeded("the tunnel's descriptor did not come"),
        )),
    }
}
