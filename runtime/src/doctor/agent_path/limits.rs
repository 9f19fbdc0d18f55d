//! How large headers and bodies may be, and whether streams are passed on before they end.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    super::{
        QUESTION_TIMEOUT,
        answer::{KNOWN_CALL, Obstacle},
        remedies::Fault,
        report::{Finding, Report},
        session::{Body, Session},
    },
    AgentPath,
    hold::{Begun, End, hold},
};

/// A header of no meaning.
const PADDING: HeaderName = HeaderName::from_static("x-kas-doctor");
/// Sizes of headers that are tried; agents need the first.
const HEADER_BYTES: [usize; 3] = [4 << 10, 7 << 10, 12 << 10];
/// The size of a body that is announced, and of a message that is sent.
const BODY_BYTES: usize = 3 << 19;
/// How long kas may take to refuse a call whose body has not ended.
const OPEN_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause in the middle of an answer that shows whether the beginning is kept back.
const ANSWER_PAUSE: Duration = Duration::from_secs(3);

impl AgentPath {
    /// Headers of the upgrade: what is inside nobody on the way sees.
    pub(super) async fn check_upgrade_headers(&self, hop: &str, report: &mut Report) {
        let mut passed = 0;
        let mut refused = None;
        for bytes in HEADER_BYTES {
            match self.websocket(&self.target, &padding(bytes)).await {
                Ok(_) => passed = bytes,
                Err(error) => {
                    refused = Some(error.to_string());
                    break;
                }
            }
        }
        report.add(hop, "headers", headers(passed, refused));
    }

    pub(super) async fn check_headers(&self, hop: &str, report: &mut Report) {
        let mut passed = 0;
        let mut refused = None;
        for bytes in HEADER_BYTES {
            if let Err(obstacle) = self
                .refused(padding(bytes), Body::None, QUESTION_TIMEOUT)
                .await
            {
                refused = Some(obstacle.seen);
                break;
            }
            passed = bytes;
        }
        report.add(hop, "headers", headers(passed, refused));
    }

    /// Calls whose bodies are not there yet: kas refuses them at once.
    pub(super) async fn check_open_body(&self, hop: &str, report: &mut Report) {
        let open = self
            .refused(HeaderMap::new(), Body::Open, OPEN_BODY_TIMEOUT)
            .await;
        let finding = match open {
            Ok(()) => Finding::ok("a call is passed on before it ends"),
            Err(Obstacle { seen, .. }) => Finding::failed(
                Fault::Buffered,
                format!(
                    "a call whose body goes on does not get to kas ({seen}), as if it were kept until its end: tunnels \
                     never end"
                ),
            ),
        };
        if !report.add(hop, "streams to kas", finding) {
            return;
        }
        let length =
            HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from(BODY_BYTES))]);
        let finding = match self.refused(length, Body::Open, OPEN_BODY_TIMEOUT).await {
            Ok(()) => Finding::ok(format!("a body of {} KiB is passed on", BODY_BYTES >> 10)),
            Err(Obstacle { seen, .. }) => Finding::failed(
                Fault::BodyLimit,
                format!("a body of {} KiB is refused: {seen}", BODY_BYTES >> 10),
            ),
        };
        report.add(hop, "bodies", finding);
    }

    /// Makes the known call on a connection of its own.
    async fn refused(
        &self,
        headers: HeaderMap,
        body: Body,
        limit: Duration,
    ) -> Result<(), Obstacle> {
        let opened = Session::open(&self.target, &self.options, &self.metadata).await;
        let mut session = opened.map_err(|error| error.obstacle(Fault::NotKas))?;
        let call = session.call(KNOWN_CALL, &headers);
        let answer = session.ask(call, body, limit).await;
        let answer = answer.map_err(|error| error.obstacle(Fault::NotKas))?;
        answer.reached().map(drop)
    }

    /// A message as long as those of uploads.
    pub(super) async fn check_body(&self, hop: &str, headers: &HeaderMap, report: &mut Report) {
        let opened = Session::open(&self.target, &self.options, &self.metadata).await;
        let finding = match opened {
            Err(error) => Finding::not_checked(error.to_string()),
            Ok(mut session) => {
                match hold(&mut session, headers, Duration::ZERO, BODY_BYTES).await {
                    Ok(Begun::Held(held)) => {
                        Finding::ok(format!("{} KiB in {:?}", BODY_BYTES >> 10, held.took))
                    }
                    Ok(Begun::Refused(answer)) => {
                        let seen = answer.reached().map(|it| it.to_string());
                        let seen = seen.unwrap_or_else(|obstacle| obstacle.seen);
                        Finding::failed(Fault::BodyLimit, seen)
                    }
                    Err(error) => Finding::failed(Fault::BodyLimit, error.to_string()),
                }
            }
        };
        report.add(hop, "uploads", finding);
    }

    /// An answer in two parts: the first has to come before the second is there.
    pub(super) async fn check_answers(&self, hop: &str, headers: &HeaderMap, report: &mut Report) {
        let opened = Session::open(&self.target, &self.options, &self.metadata).await;
        let finding = match opened {
            Err(error) => Finding::not_checked(error.to_string()),
            Ok(mut session) => match hold(&mut session, headers, ANSWER_PAUSE, 0).await {
                Ok(Begun::Held(mut held)) => {
                    let ended = tokio::time::timeout(ANSWER_PAUSE / 10, held.end()).await;
                    match ended {
                        Ok(End::InOrder) => Finding::failed(
                            Fault::Buffered,
                            "an answer in two parts came as a whole after its end: watches would not show changes",
                        ),
                        _ => Finding::ok("an answer is passed on before it ends"),
                    }
                }
                Ok(Begun::Refused(_)) => Finding::not_checked("the call was refused"),
                Err(error) => Finding::failed(Fault::Buffered, error.to_string()),
            },
        };
        report.add(hop, "streams from kas", finding);
    }
}

fn padding(bytes: usize) -> HeaderMap {
    let value = HeaderValue::from_str(&"x".repeat(bytes));
    HeaderMap::from_iter(value.ok().map(|value| (PADDING, value)))
}

/// What the sizes of headers mean that have passed.
fn headers(passed: usize, refused: Option<String>) -> Finding {
    let [needed, ..] = HEADER_BYTES;
    match refused {
        None => Finding::ok(format!("{} KiB pass", passed >> 10)),
        Some(_) if passed >= needed => {
            Finding::ok(format!("{} KiB pass, more do not", passed >> 10))
        }
        Some(why) => Finding::failed(
            Fault::HeaderLimit,
            format!("a header of {} KiB does not pass: {why}", needed >> 10),
        ),
    }
}
