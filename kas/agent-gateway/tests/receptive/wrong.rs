//! What is wrong with an agent or with what kas shows it is said, and disturbs no other.

use tests::certs::Certs;

use crate::{
    AGENT, OTHER,
    site::{Proof, Site, Waiting, until},
};

#[tokio::test]
async fn what_is_wrong_is_said_of_each_agent_and_disturbs_no_other() {
    let site = Site::new();
    let (token, stranger) = (site.agent(AGENT), site.agent(OTHER));
    let (private, public) = site.keys("keys");
    let (wrong, _) = site.keys("wrong");
    let replica = site.replica("a");
    let other = site.waiting(&stranger, &public, false, Proof::Jwt);
    let there = |waiting: &Waiting| format!("grpc://127.0.0.1:{}", waiting.port);
    site.dial(OTHER, there(&other), &private, Proof::Jwt);
    until("the other agent", || replica.holds(OTHER)).await;

    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(AGENT, there(&agent), &wrong, Proof::Jwt);
    until("the refusal", || replica.shows(AGENT, "refused")).await;
    site.dial(AGENT, there(&agent), &site.path("missing"), Proof::Jwt);
    until("the missing key", || replica.shows(AGENT, "credentials")).await;
    site.dial(AGENT, there(&other), &private, Proof::Jwt);
    until("the stranger", || replica.shows(AGENT, "another_agent")).await;
    let unknown = site.waiting("unknown", &public, false, Proof::Jwt);
    site.dial(AGENT, there(&unknown), &private, Proof::Jwt);
    until("the bad token", || replica.shows(AGENT, "token")).await;
    let guarded = site.waiting(&token, &public, true, Proof::Certificate);
    let tls = format!("grpcs://localhost:{}", guarded.port);
    site.dial(AGENT, tls, &private, Proof::Jwt);
    until("the missing certificate", || {
        replica.shows(AGENT, "certificate")
    })
    .await;

    assert!(!replica.holds(AGENT));
    assert!(replica.shows(OTHER, "connected"));
    until("all tunnels of the other agent", || {
        let tunnels = replica.registry.tunnels(OTHER);
        tunnels.alive > 0 && tunnels.idle == tunnels.alive
    })
    .await;
    site.dial(AGENT, there(&agent), &private, Proof::Jwt);
    until("the agent", || {
        replica.holds(AGENT) && replica.shows(AGENT, "connected")
    })
    .await;
}

#[tokio::test]
async fn an_expired_certificate_of_the_agent_is_named() {
    let site = Site::with(Certs::expired);
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica("a");
    let agent = site.waiting(&token, &public, true, Proof::Jwt);

    let url = format!("wss://localhost:{}", agent.port);
    site.dial(AGENT, url, &private, Proof::Jwt);

    until("the reason", || replica.shows(AGENT, "tls")).await;
    assert!(!replica.holds(AGENT));
}

#[tokio::test]
async fn an_expired_certificate_of_kas_is_named() {
    let mut site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica("a");
    let good = site.certs.clone();
    let expired = Certs::expired(&site.path("expired")).unwrap();
    // The agent shows a good certificate, and trusts the authority of the other.
    site.certs.ca = expired.ca.clone();
    let agent = site.waiting(&token, &public, true, Proof::Certificate);
    site.certs = Certs {
        ca: good.ca,
        ..expired
    };

    let url = format!("grpcs://localhost:{}", agent.port);
    site.dial(AGENT, url, &private, Proof::Certificate);

    until("the reason", || replica.shows(AGENT, "certificate")).await;
    assert!(!replica.holds(AGENT));
}
