//! HTTP proxies on the way, and servers that cannot be reached or say nothing.

use runtime::{
    connect::{ConnectError, ConnectOptions, ProxySetting, ProxyUrl, Target, connect},
    listen::{AgentAcceptorOptions, bind},
    tls::{HTTP_1_1, ServerTls},
};

use crate::{
    certificates::Authority,
    http_proxy::HttpProxy,
    rig::{Agents, call, trusting},
};

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
    // Bound and not listening: nobody else gets the port.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = held.local_addr().unwrap();
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
