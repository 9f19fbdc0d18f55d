//! Certificates: whom both sides trust, and files that change or cannot be used.

use std::time::Duration;

use runtime::{
    connect::{ConnectOptions, Target, connect},
    listen::{AcceptError, PlainAcceptor, bind},
    tls::{ClientTls, ClientTlsOptions, H2, HTTP_1_1, ServerTls},
};

use crate::{
    certificates::Authority,
    rig::{Agents, both, trusting},
};

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
