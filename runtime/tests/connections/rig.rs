//! A listener for agents, what dials it, and one call between them.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use runtime::{
    connect::{ConnectError, ConnectOptions, Connected, Target, connect},
    io::ByteStream,
    listen::{AcceptError, Accepted, AgentAcceptor, AgentAcceptorOptions, Listener, bind},
    tls::{ClientTls, ClientTlsOptions, H2, HTTP_1_1, ServerTls},
};
use tokio::time::timeout;

use crate::certificates::Authority;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A listener for agents and what dials it.
pub(crate) struct Agents {
    pub(crate) listener: Listener,
    pub(crate) acceptor: AgentAcceptor,
}

impl Agents {
    pub(crate) async fn new(options: AgentAcceptorOptions) -> Self {
        Self {
            listener: bind("127.0.0.1:0").await.unwrap(),
            acceptor: AgentAcceptor::new(options),
        }
    }

    pub(crate) async fn secure(authority: &Authority) -> Self {
        let tls = ServerTls::load(authority.identity("localhost"), &[H2, HTTP_1_1]).unwrap();
        Self::new(AgentAcceptorOptions {
            tls: Some(tls),
            ..AgentAcceptorOptions::default()
        })
        .await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    pub(crate) fn target(&self, scheme: &str) -> Target {
        let port = self.address().port();
        Target::parse(&format!("{scheme}://localhost:{port}/path?query")).unwrap()
    }

    pub(crate) async fn accept(&self) -> Result<Accepted, AcceptError> {
        let (socket, peer) = self.listener.accept().await;
        timeout(LIMIT, self.acceptor.accept(socket, peer))
            .await
            .unwrap()
    }
}

pub(crate) fn trusting(authority: &Authority) -> ConnectOptions {
    ConnectOptions {
        tls: Some(
            ClientTls::load(&ClientTlsOptions {
                ca_files: vec![authority.ca_file()],
                only_ca_files: true,
                ..ClientTlsOptions::default()
            })
            .unwrap(),
        ),
        ..ConnectOptions::default()
    }
}

/// Dials and makes one HTTP/2 request, with a body of some size back and
/// forth; returns the schemes of both sides and the authority that came.
pub(crate) async fn call(
    agents: &Agents,
    target: &Target,
    options: &ConnectOptions,
) -> [String; 3] {
    let serve = async {
        let accepted = agents.accept().await.unwrap();
        (accepted.scheme, serve(accepted.io).await)
    };
    let request = async {
        let connected = connect(target, options).await.unwrap();
        request(connected.io).await;
        connected.scheme
    };
    let both = async { tokio::join!(request, serve) };
    let (dialled, (accepted, authority)) = timeout(LIMIT, both).await.unwrap();
    [dialled.to_string(), accepted.to_string(), authority]
}

async fn serve(io: ByteStream) -> String {
    let mut connection = h2::server::handshake(io).await.unwrap();
    let mut authority = String::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        authority = request.uri().authority().unwrap().to_string();
        let response = http::Response::new(());
        let mut answer = respond.send_response(response, false).unwrap();
        answer.send_data(vec![7; 30_000].into(), true).unwrap();
    }
    authority
}

async fn request(io: ByteStream) {
    let (mut sender, connection) = h2::client::handshake(io).await.unwrap();
    let call = async move {
        let request = http::Request::post("http://kas.example.com/x").body(());
        let (response, mut body) = sender.send_request(request.unwrap(), false).unwrap();
        body.send_data(Bytes::from(vec![9; 30_000]), true).unwrap();
        let mut answer = response.await.unwrap().into_body();
        let mut length = 0;
        while let Some(data) = answer.data().await {
            length += data.unwrap().len();
        }
        length
    };
    let (length, _) = tokio::join!(call, connection);
    assert_eq!(length, 30_000);
}

pub(crate) async fn both(
    agents: &Agents,
    target: &Target,
    options: &ConnectOptions,
) -> (
    Result<Connected, ConnectError>,
    Result<Accepted, AcceptError>,
) {
    tokio::join!(connect(target, options), agents.accept())
}
