//! Somebody who answers where a replica was, and passes on to a real one what it cannot answer itself.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use h2::server::SendResponse;
use http::{Request, Response, header::AUTHORIZATION};
use tests::wait::until;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{site::SOON, wire::Wire};

/// The metadata of the only question that may come here.
const GREETING: &str = "kas-hop-self-test";

/// What it was asked.
type Heard = Arc<Mutex<Vec<Request<()>>>>;

/// An impostor; dropping it ends it.
pub(crate) struct Impostor {
    heard: Heard,
    _serving: AbortOnDropHandle<()>,
}

impl Impostor {
    /// Takes a port, and asks the real replica at another.
    pub(crate) async fn start(port: u16, real: u16) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        let heard = Heard::default();
        let all = heard.clone();
        let serving = tokio::spawn(async move {
            let mut visitors = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                visitors.spawn(receive(socket, real, all.clone()));
            }
        });
        Ok(Self {
            heard,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// Waits until it was asked so often; nothing of a user may have come, nor a token.
    pub(crate) async fn learns_nothing(&self, questions: usize) -> Result<()> {
        let asked = async || (self.lock().len() >= questions).then_some(());
        until("an impostor to be asked", SOON, asked).await?;
        for question in &*self.lock() {
            let headers = question.headers();
            ensure!(
                headers.contains_key(GREETING) && !headers.contains_key(AUTHORIZATION),
                "an impostor was told {question:?}"
            );
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Request<()>>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(socket: TcpStream, real: u16, heard: Heard) {
    let Ok(mut http2) = h2::server::handshake(socket).await else {
        return;
    };
    while let Some(Ok((request, respond))) = http2.accept().await {
        let (head, _) = request.into_parts();
        let asked = Request::from_parts(head, ());
        let mut all = heard.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(asked.clone());
        drop(all);
        tokio::spawn(relay(asked, respond, real));
    }
}

/// Whoever is gone needs no answer.
async fn relay(asked: Request<()>, mut respond: SendResponse<bytes::Bytes>, real: u16) {
    let answer = ask(asked, real).await.unwrap_or_default();
    let _ = respond.send_response(answer, true);
}

async fn ask(asked: Request<()>, real: u16) -> Result<Response<()>> {
    let call = Wire::open(real).await?;
    let answer = call.request(asked).await?.response.await?;
    Ok(answer.map(drop))
}
