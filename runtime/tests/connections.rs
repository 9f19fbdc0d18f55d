//! Real sockets: every scheme from end to end, proxies, and what goes wrong.

#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "connections/certificates.rs"]
mod certificates;
#[path = "connections/http_proxy.rs"]
mod http_proxy;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use certificates::Authority;
use http_proxy::HttpProxy;
use runtime::{
    connect::{
        ConnectError, ConnectOptions, Connected, ProxySetting, ProxyUrl, Scheme, Target, connect,
    },
    io::ByteStream,
    listen::{
        AcceptError, Accepted, AgentAcceptor, AgentAcceptorOptions, Listener, PlainAcceptor, bind,
    },
    tls::{ClientTls, ClientTlsOptions, H2, HTTP_1_1, ServerTls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(20);

/// A listener for agents and what dials it.
struct Agents {
    listener: Listener,
    acceptor: AgentAcceptor,
}

impl Agents {
    async fn new(options: AgentAcceptorOptions) -> Self {
        Self {
            listener: bind("127.0.0.1:0").await.unwrap(),
            acceptor: AgentAcceptor::new(options),
        }
    }

    async fn secure(authority: &Authority) -> Self {
        let tls = ServerTls::load(authority.identity("localhost"), &[H2, HTTP_1_1]).unwrap();
        Self::new(AgentAcceptorOptions {
            tls: Some(tls),
            ..AgentAcceptorOptions::default()
        })
        .await
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    fn target(&self, scheme: &str) -> Target {
        let port = self.address().port();
        Target::parse(&format!("{scheme}://localhost:{port}/path?query")).unwrap()
    }

    async fn accept(&self) -> Result<Accepted, AcceptError> {
        let (socket, peer) = self.listener.accept().await;
        timeout(LIMIT, self.acceptor.accept(socket, peer))
            .await
            .unwrap()
    }
}

fn trusting(authority: &Authority) -> ConnectOptions {
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
async fn call(agents: &Agents, target: &Target, options: &ConnectOptions) -> [String; 3] {
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

async fn both(
    agents: &Agents,
    target: &Target,
    options: &ConnectOptions,
) -> (
    Result<Connected, ConnectError>,
    Result<Accepted, AcceptError>,
) {
    tokio::join!(connect(target, options), agents.accept())
}

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
    // TLS may also find out at once that this is not TLS.
    assert!(
        matches!(result, Err(AcceptError::Timeout(_) | AcceptError::Tls(_))),
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

    assert_eq!(accepted.peer, "10.1.2.3:4567".parse().unwrap());
    assert_eq!(accepted.scheme, Scheme::Grpc);
}

#[tokio::test]
async fn an_unknown_ca_is_named_in_the_error() {
    let agents = Agents::secure(&Authority::new()).await;
    let stranger = trusting(&Authority::new());

    let (connected, accepted) = both(&agents, &agents.target("grpcs"), &stranger).await;

    let error = connected.unwrap_err().to_string();
    assert!(error.contains("not signed by a trusted CA"), "{error}");
    assert!(error.contains("grpcs://localhost:"), "{error}");
    assert!(matches!(accepted, Err(AcceptError::Tls(_))));
}

#[tokio::test]
async fn names_are_checked_and_can_be_overridden() {
    let authority = Authority::new();
    let agents = Agents::secure(&authority).await;
    let by_address = Target::parse(&format!("wss://{}", agents.address())).unwrap();
    let mut options = trusting(&authority);

    let (refused, _) = both(&agents, &by_address, &options).await;
    options.tls = Some(
        ClientTls::load(&ClientTlsOptions {
            ca_files: vec![authority.ca_file()],
            only_ca_files: true,
            server_name: Some("localhost".to_owned()),
            ..ClientTlsOptions::default()
        })
        .unwrap(),
    );
    let (overridden, _) = both(&agents, &by_address, &options).await;
    options.tls = Some(
        ClientTls::load(&ClientTlsOptions {
            insecure_skip_verify: true,
            ..ClientTlsOptions::default()
        })
        .unwrap(),
    );
    let (unchecked, _) = both(&agents, &by_address, &options).await;

    let error = refused.unwrap_err().to_string();
    assert!(error.contains("for another name"), "{error}");
    overridden.unwrap();
    unchecked.unwrap();
}

#[tokio::test]
async fn clients_can_be_asked_for_certificates() {
    let authority = Authority::new();
    let listener = bind("127.0.0.1:0").await.unwrap();
    let tls = ServerTls::load_mutual(
        authority.identity("localhost"),
        authority.ca_file(),
        &[H2, HTTP_1_1],
    );
    let acceptor = PlainAcceptor::new(Some(tls.unwrap()));
    let target = format!("grpcs://localhost:{}", listener.local_addr().port());
    let target = Target::parse(&target).unwrap();
    let known = ConnectOptions {
        tls: Some(
            ClientTls::load(&ClientTlsOptions {
                ca_files: vec![authority.ca_file()],
                only_ca_files: true,
                identity: Some(authority.identity("peer")),
                ..ClientTlsOptions::default()
            })
            .unwrap(),
        ),
        ..ConnectOptions::default()
    };
    let accept = async || {
        let (socket, peer) = listener.accept().await;
        acceptor.accept(socket, peer).await
    };

    let unknown = trusting(&authority);
    let (_, refused) = tokio::join!(connect(&target, &unknown), accept());
    let (connected, accepted) = tokio::join!(connect(&target, &known), accept());

    assert!(matches!(refused, Err(AcceptError::Tls(_))));
    connected.unwrap();
    assert_eq!(accepted.unwrap().alpn.as_deref(), Some(H2));
}

#[tokio::test]
async fn a_tunnel_through_a_proxy_carries_every_scheme() {
    let authority = Authority::new();
    let clear = Agents::new(AgentAcceptorOptions::default()).await;
    let secure = Agents::secure(&authority).await;
    let plain_proxy = HttpProxy::start(None).await;
    let tls = ServerTls::load(authority.identity("localhost"), &[HTTP_1_1]).unwrap();
    let tls_proxy = HttpProxy::start(Some(tls)).await;

    for proxy in [&plain_proxy, &tls_proxy] {
        for (agents, scheme) in [(&clear, "ws"), (&secure, "wss")] {
            let options = ConnectOptions {
                proxy: ProxySetting::Url(ProxyUrl::parse(&proxy.url("user:secret@")).unwrap()),
                ..trusting(&authority)
            };

            let seen = call(agents, &agents.target(scheme), &options).await;

            assert_eq!(seen, [scheme, scheme, "kas.example.com"]);
        }
    }
    assert_eq!(plain_proxy.tunnels(), 2);
    assert_eq!(tls_proxy.tunnels(), 2);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_quoted() {
    let proxy = HttpProxy::start(None).await;
    let options = ConnectOptions {
        proxy: ProxySetting::Url(ProxyUrl::parse(&proxy.url("user:wrong@")).unwrap()),
        ..ConnectOptions::default()
    };
    let target = Target::parse("ws://kas.example.com").unwrap();

    let error = connect(&target, &options).await.unwrap_err().to_string();

    assert!(error.contains("HTTP 407"), "{error}");
    assert!(error.contains("credentials"), "{error}");
    assert!(!error.contains("wrong"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr();
    drop(listener);
    let target = Target::parse(&format!("grpc://{address}")).unwrap();

    let refused = connect(&target, &ConnectOptions::default()).await;
    let no_tls = connect(
        &Target::parse("grpcs://localhost:1").unwrap(),
        &ConnectOptions::default(),
    )
    .await;

    let error = refused.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
    assert!(no_tls.is_err());
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let listener = bind("127.0.0.1:0").await.unwrap();
    let target = Target::parse(&format!("ws://{}", listener.local_addr())).unwrap();
    let options = ConnectOptions::default();
    let dial = connect(&target, &options);
    let hold = async {
        let held = listener.accept().await;
        tokio::time::pause();
        std::future::pending::<()>().await;
        drop(held);
    };

    let result = tokio::select! {
        result = dial => result,
        () = hold => unreachable!("it never ends"),
    };

    assert!(matches!(result, Err(ConnectError::Timeout { .. })));
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

#[tokio::test]
async fn certificates_are_picked_up_and_bad_ones_are_not() {
    let authority = Authority::new();
    let identity = authority.identity("localhost");
    let tls = ServerTls::load(identity.clone(), &[H2]).unwrap();
    let first = tls.config();
    tokio::time::pause();

    std::fs::write(&identity.certificate, "broken").unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let broken = tls.config();
    let renewed = authority.identity("renewed");
    std::fs::copy(&renewed.key, &identity.key).unwrap();
    std::fs::copy(&renewed.certificate, &identity.certificate).unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    let changed = tls.config();

    assert!(std::sync::Arc::ptr_eq(&first, &broken));
    assert!(!std::sync::Arc::ptr_eq(&first, &changed));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let mut missing = authority.identity("localhost");
    missing.key = "/nonexistent/key.pem".into();
    let mut swapped = authority.identity("localhost");
    std::mem::swap(&mut swapped.key, &mut swapped.certificate);
    let mut other = authority.identity("localhost");
    other.key = authority.identity("other").key;

    for (identity, says) in [
        (missing, "/nonexistent/key.pem"),
        (swapped, "no PEM certificate"),
        (other, "cannot be used together"),
    ] {
        let error = ServerTls::load(identity, &[H2]).unwrap_err().to_string();

        assert!(error.contains(says), "{error}");
    }
}
