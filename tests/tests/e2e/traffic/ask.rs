//! One request and its answer.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tests::counting_api::{CountingApi, is_whole_list};
use tokio::time::{Instant, sleep, timeout};

use super::{Outcome, Sample, Shared, What, chain};
use crate::fleet::Agent;

/// How long one request may take: longer than kas holds it.
const LIMIT: Duration = Duration::from_secs(90);
/// Before it is asked again.
const PAUSE: Duration = Duration::from_millis(10);
const BODY: usize = 4096;
/// How long a slow API thinks: less than connections live that are cut each second.
const SLOW: Duration = Duration::from_millis(400);

/// The client's own connection, not the agent's.
pub(super) enum Broken {
    BeforeAnswer(String),
    InAnswer(String),
}

impl Shared {
    pub(super) async fn ask(
        &self,
        agent: &Agent,
        what: What,
        turn: u64,
        started: Instant,
    ) -> Sample {
        let mut sample = Sample {
            started,
            took: Duration::ZERO,
            kind: agent.kind,
            what,
            client_retries: 0,
            broke_off: 0,
            outcome: Outcome::Good,
        };
        let api = &self.apis[&agent.kind];
        sample.outcome = if what.is_post() {
            self.post(agent, what, turn, api).await
        } else {
            self.get(agent, turn, api, &mut sample).await
        };
        sample.took = started.elapsed();
        sample
    }

    /// A GET; asked again when the client's own connection broke before an answer, or in a long one.
    async fn get(
        &self,
        agent: &Agent,
        turn: u64,
        api: &CountingApi,
        sample: &mut Sample,
    ) -> Outcome {
        let path = path(sample.what, turn);
        loop {
            let in_time = sample.started.elapsed() < LIMIT;
            let tries = sample.client_retries + sample.broke_off;
            match self.send(Method::GET, agent, &path, turn + tries).await {
                Ok((StatusCode::OK, body)) => return check(sample.what, api, &body),
                Ok((status, body)) => return refused(status, &body),
                Err(Broken::BeforeAnswer(_)) if in_time => {
                    sample.client_retries += 1;
                    sleep(PAUSE).await;
                }
                Err(Broken::InAnswer(_)) if sample.what == What::List && in_time => {
                    sample.broke_off += 1;
                }
                Err(Broken::BeforeAnswer(why) | Broken::InAnswer(why)) => {
                    return Outcome::Failed(why);
                }
            }
        }
    }

    /// A POST, which is never sent twice.
    async fn post(&self, agent: &Agent, what: What, turn: u64, api: &CountingApi) -> Outcome {
        let path = path(what, turn);
        let posted = || api.posted(path.split('?').next().unwrap_or_default());
        match self.send(Method::POST, agent, &path, turn).await {
            Ok((StatusCode::OK, _)) if posted() == 1 => Outcome::Good,
            Ok((StatusCode::OK, _)) => {
                Outcome::Failed(format!("it was carried out {} times", posted()))
            }
            // The client cannot know, when its connection breaks or kas says so.
            Ok((StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, body))
                if String::from_utf8_lossy(&body).contains("outcome is unknown") =>
            {
                Outcome::Unknown
            }
            Ok((status, body)) => refused(status, &body),
            Err(_) => Outcome::Unknown,
        }
    }

    async fn send(
        &self,
        method: Method,
        agent: &Agent,
        path: &str,
        turn: u64,
    ) -> Result<(StatusCode, Bytes), Broken> {
        let exchange = async {
            let answered = self.open(method, agent, path, turn).await?;
            let status = answered.status();
            let body = answered.into_body().collect().await;
            let body = body.map_err(|error| Broken::InAnswer(chain(&error)))?;
            Ok((status, body.to_bytes()))
        };
        match timeout(LIMIT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Broken::InAnswer(format!("no answer within {LIMIT:?}"))),
        }
    }

    /// The head of an answer.
    pub(super) async fn open(
        &self,
        method: Method,
        agent: &Agent,
        path: &str,
        turn: u64,
    ) -> Result<Response<Incoming>, Broken> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{}/k8s-proxy{path}", self.port))
            .header(
                "authorization",
                format!("Bearer pat:{}:{}", agent.id, self.bearer),
            )
            .body(Full::default())
            .expect("its parts are valid");
        let client = &self.clients[turn as usize % self.clients.len()];
        let answered = timeout(LIMIT, client.request(request)).await;
        let answered = answered.map_err(|_| late())?;
        answered.map_err(|error| Broken::BeforeAnswer(chain(&error)))
    }
}

fn late() -> Broken {
    Broken::InAnswer(format!("no answer within {LIMIT:?}"))
}

fn path(what: What, turn: u64) -> String {
    let slow = SLOW.as_millis();
    match what {
        What::Get => format!("/bytes/{BODY}"),
        What::SlowGet => format!("/bytes/{BODY}?slow={slow}"),
        What::List | What::Event | What::Watch => {
            "/api/v1/namespaces/default/configmaps".to_owned()
        }
        What::Post => format!("/once/{turn}"),
        What::SlowPost => format!("/once/{turn}?slow={slow}"),
    }
}

/// Whether a body is whole, and from this kind of agent.
fn check(what: What, api: &CountingApi, body: &[u8]) -> Outcome {
    let whole = match what {
        What::List => is_whole_list(body),
        What::Get | What::SlowGet | What::Post | What::SlowPost | What::Event | What::Watch => {
            body.len() == BODY && body.iter().all(|byte| *byte == api.letter())
        }
    };
    if whole {
        return Outcome::Good;
    }
    Outcome::Failed(format!("{} bytes of a wrong body", body.len()))
}

fn refused(status: StatusCode, body: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    Outcome::Failed(format!("{status}: {text}"))
}
