//! What the listener does with bytes that are no agent's, and who is behind a proxy.

use runtime::{
    connect::{ConnectOptions, Scheme},
    listen::{AcceptError, AgentAcceptorOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    certificates::Authority,
    rig::{Agents, call},
};

#[tokio::test]
async fn a_health_check_is_harmless() {
    let authority = Authority::new();
    for agents in [
        Agents::new(AgentAcceptorOptions::default()).await,
        Agents::secure(&authority).await,
    ] {
        drop(TcpStream::connect(agents.address()).await.unwrap());

        let error = agents.accept().await.unwrap_err();

        assert!(error.is_harmless(), "{error}");
    }
}

#[tokio::test]
async fn half_a_handshake_times_out() {
    let authority = Authority::new();
    for mut agents in [
        Agents::new(AgentAcceptorOptions::default()).await,
        Agents::secure(&authority).await,
    ] {
        for start in [
            &b""[..],
            b"PRI * HTTP/2.0\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n",
        ] {
            agents = patient(agents, start).await;
        }
    }
}

async fn patient(agents: Agents, start: &[u8]) -> Agents {
    let mut client = TcpStream::connect(agents.address()).await.unwrap();
    let (socket, peer) = agents.listener.accept().await;
    client.write_all(start).await.unwrap();
    tokio::time::pause();

    let result = agents.acceptor.accept(socket, peer).await;

    tokio::time::resume();
    // Where TLS is spoken, the first bytes may tell at once that this is not TLS.
    assert!(
        matches!(
            result,
            Err(AcceptError::Timeout(_) | AcceptError::Tls(_) | AcceptError::PlainHttp)
        ),
        "{result:?}"
    );
    agents
}

#[tokio::test]
async fn without_websocket_only_grpc_is_served() {
    let agents = Agents::new(AgentAcceptorOptions {
        websocket: false,
        ..AgentAcceptorOptions::default()
    })
    .await;

    let seen = call(&agents, &agents.target("grpc"), &ConnectOptions::default()).await;

    assert_eq!(seen, ["grpc", "grpc", "kas.example.com"]);
}

#[tokio::test]
async fn a_proxy_header_names_the_agent() {
    let agents = Agents::new(AgentAcceptorOptions {
        proxy_protocol: true,
        ..AgentAcceptorOptions::default()
    })
    .await;
    let mut client = TcpStream::connect(agents.address()).await.unwrap();
    client
        .write_all(b"PROXY TCP4 10.1.2.3 10.0.0.1 4567 443\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();

    let accepted = agents.accept().await.unwrap();

    assert_eq!(accepted.remote_addr, "10.1.2.3:4567".parse().unwrap());
    assert_eq!(accepted.scheme, Scheme::Grpc);
}

#[tokio::test]
async fn plain_http_on_the_agent_port_is_told_what_it_is_for() {
    let agents = Agents::new(AgentAcceptorOptions {
        server: "kas/1.2.3".to_owned(),
        ..AgentAcceptorOptions::default()
    })
    .await;
    let mut client = TcpStream::connect(agents.address()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let read = async {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };

    let (accepted, answer) = tokio::join!(agents.accept(), read);

    assert!(matches!(accepted, Err(AcceptError::WebSocket(_))));
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    assert!(answer.contains("Server: kas/1.2.3\r\n"), "{answer}");
}
