//! Real sockets: every scheme from end to end, proxies, and what goes wrong.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod certificates;
mod dialling;
mod http_proxy;
mod listening;
mod rig;
mod tls;

use std::time::Duration;

use certificates::Authority;
use rig::{Agents, LIMIT, both, call, trusting};
use runtime::{
    connect::{ConnectOptions, Scheme},
    listen::AgentAcceptorOptions,
    tls::H2,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

#[tokio::test]
async fn every_scheme_carries_http2() {
    let authority = Authority::new();
    let clear = Agents::new(AgentAcceptorOptions::default()).await;
    let secure = Agents::secure(&authority).await;
    let options = ConnectOptions {
        ping_interval: Some(Duration::from_millis(1)),
        ..trusting(&authority)
    };

    for (agents, scheme) in [
        (&clear, "grpc"),
        (&clear, "ws"),
        (&secure, "grpcs"),
        (&secure, "wss"),
    ] {
        let seen = call(agents, &agents.target(scheme), &options).await;

        assert_eq!(seen, [scheme, scheme, "kas.example.com"]);
    }
}

/// Frames of a Go agent: `:authority` is the escaped URL, first as a literal
/// that is remembered, then as a reference to it.
fn go_agent_bytes() -> Vec<u8> {
    let authority = b"wss:%2F%2Fkas.example.com%2F-%2Fkubernetes-agent%2F";
    let mut huffman = Vec::new();
    httlib_huffman::encode(authority, &mut huffman).unwrap();
    let mut first = vec![
        0x83,
        0x86,
        0x84,
        0x41,
        0x80 | u8::try_from(huffman.len()).unwrap(),
    ];
    first.extend(huffman);
    let second = vec![0x83, 0x86, 0x84, 0xBE];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for (stream, block) in [(1, first), (3, second)] {
        bytes.extend([
            0,
            0,
            u8::try_from(block.len()).unwrap(),
            1,
            5,
            0,
            0,
            0,
            stream,
        ]);
        bytes.extend(block);
    }
    bytes
}

#[tokio::test]
async fn a_go_agents_authority_is_accepted_over_websocket() {
    let agents = Agents::new(AgentAcceptorOptions::default()).await;
    let target = agents.target("ws");
    let (connected, accepted) = both(&agents, &target, &ConnectOptions::default()).await;
    let mut agent = connected.unwrap().io;

    agent.write_all(&go_agent_bytes()).await.unwrap();
    agent.flush().await.unwrap();
    let serve = async {
        let mut connection = h2::server::handshake(accepted.unwrap().io).await.unwrap();
        let mut authorities = Vec::new();
        while authorities.len() < 2 {
            let (request, _respond) = connection.accept().await.unwrap().unwrap();
            authorities.push(request.uri().authority().unwrap().to_string());
        }
        authorities
    };

    let authorities = timeout(LIMIT, serve).await.unwrap();
    let expected = "wss--2F-2Fkas.example.com-2F--2Fkubernetes-agent-2F";
    assert_eq!(authorities, [expected, expected]);
}

#[tokio::test]
async fn a_websocket_is_accepted_where_alpn_chose_h2() {
    let authority = Authority::new();
    let agents = Agents::secure(&authority).await;
    let tls = trusting(&authority).tls.unwrap();
    let client = async {
        let tcp = TcpStream::connect(agents.address()).await.unwrap();
        let name = tls.server_name("localhost").unwrap();
        let mut io = tokio_rustls::TlsConnector::from(tls.config(&[H2]))
            .connect(name, tcp)
            .await
            .unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Protocol: ws-tunnel\r\n\r\n";
        io.write_all(request).await.unwrap();
        io
    };

    let (_client, accepted) = tokio::join!(client, agents.accept());

    assert_eq!(accepted.unwrap().scheme, Scheme::Wss);
}
