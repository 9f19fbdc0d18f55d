//! A request is found by its id. A test binary of its own: the interest of log
//! lines is cached for the whole process.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    dead_code,
    missing_debug_implementations,
    reason = "a test that fails may panic, and its helpers are nobody else's"
)]

mod double;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use cluster_state::AgentId;
use double::{Agent, Replicas, opening};
use proto::agent::prototool::Values;
use router::{Event, Opening, REQUEST_ID};
use tokio::time::Instant;

const AGENT: AgentId = AgentId(42);

/// What is logged on a test's thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_request_is_found_by_its_id_in_the_log_of_both_replicas_and_at_the_agent() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logs = tracing::subscriber::set_default(subscriber);
    let replicas = Replicas::start(2);
    let _agent = Agent::connect(&replicas.all[1], AGENT, 1).await;
    let id = Values {
        value: vec!["r-1".to_owned()],
    };
    let opening = Opening {
        meta: HashMap::from([(REQUEST_ID.to_owned(), id.clone())]),
        ..opening(&[b"x"], true)
    };

    let deadline = Instant::now() + Duration::from_secs(20);
    let mut call = replicas.all[0]
        .open(AGENT, opening, deadline)
        .await
        .unwrap();

    let at_agent = call.event().await.unwrap();
    assert_eq!(
        at_agent,
        Event::Header(proto::metadata::raw(HashMap::from([(
            REQUEST_ID.to_owned(),
            id
        )])))
    );
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for event in ["call started through a peer", "serving a call for a peer"] {
        let line = log.lines().find(|line| line.contains(event));
        let line = line.unwrap_or_else(|| panic!("no line says {event:?}: {log}"));
        assert!(line.contains(r#"request_id="r-1""#), "{line}");
        assert!(line.contains("agent.id=42"), "{line}");
    }
}
