//! Names of keys, who is dialled, and what a value is worth.

use super::*;
use crate::redis::metrics::StoreMetrics;

#[derive(Debug)]
struct NoConnections;

impl ConnectionForm for NoConnections {
    fn encode(&self, _: AgentId, _: &Presence) -> Vec<(i64, Vec<u8>)> {
        Vec::new()
    }

    fn decode(&self, _: &[u8]) -> Option<(AgentId, Presence)> {
        None
    }
}

fn records(only_tls: bool) -> Records {
    let kas = GitLabKas {
        connections: Arc::new(NoConnections),
        only_tls,
    };
    let signer = Signer::new(None, StoreMetrics::default());
    Records::new(kas, "p", Arc::new(signer))
}

#[test]
fn keys_hold_the_raw_bytes_of_ids() {
    let keys = Keys::new("p");
    let key = with_id(&keys.owners, 0x0a3a);

    assert_eq!(
        &key[..],
        b"p:tunnel_tracker2:kas_by_agent_id:\x3a\x0a\0\0\0\0\0\0"
    );
    assert_eq!(keys.agent_of(&key), Some(AgentId(0x0a3a)));
    assert_eq!(keys.agent_of(&key[..key.len() - 1]), None);
    assert_eq!(keys.agent_of(b"p:kas2:agent:{7}"), None);
}

#[test]
fn only_what_can_be_a_replica_of_gitlabs_kas_is_dialled() {
    let dialled = |only_tls, url: &str| records(only_tls).owner(url.as_bytes()).is_some();

    for url in [
        "grpc://10.0.0.1:8155",
        "grpcs://kas.example:443",
        "grpc://[::1]:1",
    ] {
        assert!(dialled(false, url), "{url}");
    }
    assert!(!dialled(true, "grpc://10.0.0.1:8155"));
    assert!(dialled(true, "grpcs://10.0.0.1:8155"));
    for url in [
        "",
        "10.0.0.1:8155",
        "unix:///run/other.sock",
        "ws://10.0.0.1:8155",
        "http://10.0.0.1",
        "grpc://",
        "grpc://10.0.0.1:8155,grpc://10.0.0.2:8155",
        "grpc://a b:1",
    ] {
        assert!(!dialled(false, url), "{url}");
    }
    assert!(!dialled(false, &format!("grpc://{}:1", "a".repeat(600))));
    assert!(records(false).owner(b"grpc://\xff").is_none());
}

#[test]
fn a_value_counts_until_it_expires_and_only_if_it_can_be_read() {
    let records = records(false);
    let valid = |value: &[u8], now| records.valid(b"field", value, now);
    let value = |expires_at| {
        let value = Bytes::new();
        ExpiringValue { expires_at, value }.encode_to_vec()
    };

    assert!(matches!(valid(&value(100), 100), Valid::Value(it) if it.is_empty()));
    assert!(matches!(valid(&value(100), 101), Valid::Expired));
    assert!(matches!(valid(&[], 1), Valid::Expired));
    assert!(matches!(valid(b"garbage", 1), Valid::Malformed));
    assert!(matches!(valid(&[0; 5000], 1), Valid::Malformed));
}
