//! The method by which kas asks for answers.

use std::pin::pin;

use futures_util::future::BoxFuture;
use tonic::Status;

use super::{Answers, heard, pass_on};
use crate::{
    call::{CallError, Inbound, Outbound},
    kubernetes_api::{head, requests::RequestParts},
    services::Service,
};

/// Serves the calls by which kas asks for answers.
#[derive(Debug)]
pub(crate) struct Ask(Answers);

impl Ask {
    pub(crate) fn new(answers: Answers) -> Self {
        Self(answers)
    }

    async fn ask(&self, inbound: &mut Inbound, outbound: &mut Outbound) -> Result<(), CallError> {
        let mut requests = RequestParts::new(inbound);
        let header = requests.header().await?;
        let identity = head::identity(header.extra)?;
        let offer = header.keep;
        let offer = offer.ok_or_else(|| Status::invalid_argument("a header without an offer"))?;
        let (id, mut reader) = self.0.table.read(&offer, identity.as_ref())?;
        let mut feeding = pin!(ignore(&mut requests));
        {
            let mut passing = pin!(pass_on(&mut reader, outbound, &self.0.metrics));
            tokio::select! {
                fed = &mut feeding => {
                    fed?;
                    return passing.await;
                }
                done = &mut passing => done?,
            }
        }
        heard(feeding).await?;
        self.0.metrics.answers_recovered.inc();
        self.0.table.passed_on(id);
        Ok(())
    }
}

/// Reads on until kas ends the call.
async fn ignore(requests: &mut RequestParts<'_>) -> Result<(), CallError> {
    while requests.next().await?.is_some() {}
    Ok(())
}

impl Service for Ask {
    fn serve<'a>(
        &'a self,
        inbound: &'a mut Inbound,
        outbound: &'a mut Outbound,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.ask(inbound, outbound))
    }
}
