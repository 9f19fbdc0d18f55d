//! A watch that goes on all the time: each event must come once, and in order.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{Outcome, Sample, Shared, What, ask::Broken};
use crate::fleet::Agent;

/// How long there may be no event: longer than kas holds a request.
const SILENCE: Duration = Duration::from_secs(90);

/// Before a watch is begun again.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a watch stands.
struct Place {
    agent: Agent,
    last: u64,
    begun: u64,
}

impl Shared {
    /// Watches until the first event after the stop. As client-go does it, a watch that breaks is begun
    /// again behind its last event.
    pub(super) async fn follow(self: Arc<Self>, agent: Agent, stop: watch::Receiver<bool>) {
        let mut place = Place {
            last: self.apis[&agent.kind].version(),
            agent,
            begun: 0,
        };
        loop {
            let began = Instant::now();
            let outcome = match self.watch(&mut place, &stop).await {
                Ok(()) => return,
                Err(outcome) => outcome,
            };
            let fatal = outcome != Outcome::Good;
            self.note(&place.agent, What::Watch, (began, Duration::ZERO), outcome);
            if fatal {
                return;
            }
            sleep(PAUSE).await;
        }
    }

    /// One request. Ends well at the stop, and with [`Outcome::Good`] as its error when the connection broke.
    async fn watch(&self, place: &mut Place, stop: &watch::Receiver<bool>) -> Result<(), Outcome> {
        let path = format!(
            "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={}",
            place.last
        );
        place.begun += 1;
        let opened = self.open(Method::GET, &place.agent, &path, place.begun);
        let answer = match opened.await {
            Ok(answer) => answer,
            Err(Broken::BeforeAnswer(_)) => return Err(Outcome::Good),
            Err(Broken::InAnswer(why)) => return Err(Outcome::Failed(why)),
        };
        if answer.status() != StatusCode::OK {
            return Err(Outcome::Failed(format!("a watch: {}", answer.status())));
        }
        self.events(place, answer.into_body(), stop).await
    }

    async fn events(
        &self,
        place: &mut Place,
        mut body: Incoming,
        stop: &watch::Receiver<bool>,
    ) -> Result<(), Outcome> {
        let mut pending = Vec::new();
        loop {
            let frame = timeout(SILENCE, body.frame()).await;
            let silent = || Outcome::Failed(format!("no event for {SILENCE:?}"));
            let Some(Ok(frame)) = frame.map_err(|_| silent())? else {
                return Err(Outcome::Good);
            };
            pending.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                self.event(place, &line)?;
                if *stop.borrow() {
                    return Ok(());
                }
            }
        }
    }

    fn event(&self, place: &mut Place, line: &[u8]) -> Result<(), Outcome> {
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        let version = event["object"]["metadata"]["resourceVersion"].as_str();
        let version = version.and_then(|version| version.parse().ok());
        if event["type"] != "MODIFIED" || version != Some(place.last + 1) {
            let line = String::from_utf8_lossy(line);
            let last = place.last;
            return Err(Outcome::Failed(format!("behind event {last} came {line}")));
        }
        place.last += 1;
        let due = self.apis[&place.agent.kind].due(place.last);
        let late = Instant::now().saturating_duration_since(due);
        self.note(&place.agent, What::Event, (due, late), Outcome::Good);
        Ok(())
    }

    fn note(&self, agent: &Agent, what: What, time: (Instant, Duration), outcome: Outcome) {
        self.samples().push(Sample {
            started: time.0,
            took: time.1,
            kind: agent.kind,
            what,
            client_retries: 0,
            broke_off: 0,
            outcome,
        });
    }
}
