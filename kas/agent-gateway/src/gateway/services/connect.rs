//! `ReverseTunnel.Connect`: the beginning of a tunnel, up to its descriptor.

use std::{hash::RandomState, sync::Arc};

use proto::frame::MAX_MESSAGE;
use router::tunnel::{Offer, Stream};
use runtime::{
    grpc::{MESSAGE_TIMEOUT, deframer, first_message},
    patience::within,
    tunnel::{DESCRIPTOR_BOUNDS, PATH},
};
use tonic::Status;

use super::{
    super::{
        caller::{OpenTunnel, told},
        descriptor::MethodLists,
        service::{Call, Method, Opening},
    },
    agent_version::capabilities,
};

/// What all tunnels of a replica share.
#[derive(Debug, Default)]
struct Connect {
    lists: MethodLists,
    /// Keys the fingerprints of descriptors, so that no agent can make two alike.
    fingerprints: RandomState,
}

/// Agents open tunnels by it.
pub(super) fn connect() -> Method {
    let connect = Arc::new(Connect::default());
    Method::tunnel(PATH, move |call| connect.clone().open(call))
}

impl Connect {
    /// Reads the tunnel's descriptor.
    fn open(self: Arc<Self>, call: Call) -> Opening {
        let Call {
            identity,
            request,
            respond,
            permit,
            ..
        } = call;
        let (head, mut recv) = request.into_parts();
        // Nothing else of the head is kept while the descriptor is waited for.
        let capabilities = capabilities(&head.headers);
        let told = told(&head.headers);
        let deframer = deframer(&head.headers, DESCRIPTOR_BOUNDS.bytes);
        Box::pin(async move {
            let read = async {
                let mut deframer = deframer?;
                let message = first_message(&mut recv, &mut deframer).await?;
                let read = || self.lists.read(message.clone());
                let caller = &identity.caller;
                let methods = caller.methods(&self.fingerprints, &message, read)?;
                deframer.set_limit(MAX_MESSAGE);
                let told = told.by(&methods);
                let offer = Offer {
                    agent: identity.agent.id,
                    methods,
                    impersonates: capabilities.impersonates,
                    upgrades: capabilities.upgrades,
                };
                Ok::<_, Status>((offer, told, deframer))
            };
            match within(MESSAGE_TIMEOUT, read).await {
                Ok(Ok((offer, told, deframer))) => {
                    let stream = Stream {
                        recv,
                        deframer,
                        respond,
                    };
                    Ok(OpenTunnel {
                        offer,
                        stream,
                        permit,
                        told,
                    })
                }
                Ok(Err(status)) => {
                    permit.ends(status.code());
                    Err((respond, status))
                }
                Err(_) => {
                    let status = Status::deadline_exceeded("the tunnel's descriptor did not come");
                    permit.ends(status.code());
                    Err((respond, status))
                }
            }
        })
    }
}
