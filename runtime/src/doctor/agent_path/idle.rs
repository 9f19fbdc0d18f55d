//! How long silence lasts until somebody on the way cuts it.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::{Instant, sleep, timeout};

use super::{
    super::{
        remedies::Fault,
        report::{Finding, Report},
        session::Session,
    },
    AgentPath,
    hold::{Begun, End, hold},
};
use crate::connect::ConnectOptions;

/// Pings of a doctor: not more often than GitLab's kas tolerates.
const PING_INTERVAL_MAX: Duration = Duration::from_secs(20);
/// What an answer may take beyond the silence.
const MARGIN: Duration = Duration::from_secs(10);
/// kas closes a connection without a valid token after 30 s.
const WITHOUT_TOKEN_MAX: Duration = Duration::from_secs(25);
/// kas ends silent streams by itself after 45 s at most.
const STREAM_SILENCE: Duration = Duration::from_secs(50);
/// Our agentk pings after 30 s of silence, GitLab's after 55 s.
const PING_OF_AGENTS: Duration = Duration::from_secs(30);

/// What became of silence.
enum Silence {
    Kept,
    CutAfter(Duration),
    Unknown(String),
}

/// Is silent on two streams at a time, on one with pings.
pub(super) async fn check_streams(
    path: &AgentPath,
    hop: &str,
    headers: &HeaderMap,
    report: &mut Report,
) {
    let limit = path.idle_limit;
    let (quiet, pinged) = tokio::join!(
        silent_stream(path, headers, limit, false),
        silent_stream(path, headers, limit, true)
    );
    let counts = match (&quiet, &pinged) {
        (Silence::CutAfter(_), Silence::Kept) => ", and pings keep it open",
        _ => "",
    };
    let finding = match quiet {
        Silence::Kept => Finding::ok(format!("open after {limit:?} in which nothing was sent")),
        Silence::Unknown(why) => Finding::not_checked(why),
        Silence::CutAfter(_) if matches!(pinged, Silence::CutAfter(_)) => {
            Finding::not_checked("see the stream with pings")
        }
        Silence::CutAfter(after) => {
            let seen = format!(
                "a connection on which nothing is sent is cut after {after:?}{counts}; agents ping after 30 s (GitLab's \
                 agentk: 55 s)"
            );
            match after < PING_OF_AGENTS {
                true => Finding::failed(Fault::ConnectionTimeout, seen),
                false => Finding::warning(Fault::ConnectionTimeout, seen),
            }
        }
    };
    report.add(hop, "idle connection", finding);
    let finding = match pinged {
        Silence::Kept => Finding::ok(format!("open after {limit:?} with pings only")),
        Silence::Unknown(why) => Finding::not_checked(why),
        Silence::CutAfter(after) => {
            let seen = format!(
                "a stream without messages is cut after {after:?}, and pings do not count; kas ends silent ones after \
                 45 s by itself"
            );
            match after < STREAM_SILENCE {
                true => Finding::failed(Fault::StreamTimeout, seen),
                false => Finding::warning(Fault::StreamTimeout, seen),
            }
        }
    };
    report.add(hop, "silent stream", finding);
}

async fn silent_stream(
    path: &AgentPath,
    headers: &HeaderMap,
    limit: Duration,
    pings: bool,
) -> Silence {
    let interval = (limit / 3).min(PING_INTERVAL_MAX);
    let options = ConnectOptions {
        ping_interval: pings.then_some(interval),
        ..path.options.clone()
    };
    let session = Session::open(&path.target, &options, &path.metadata).await;
    let mut session = match session {
        Ok(session) => session,
        Err(error) => return Silence::Unknown(error.to_string()),
    };
    let mut held = match hold(&mut session, headers, limit, 0).await {
        Ok(Begun::Held(held)) => held,
        Ok(Begun::Refused(_)) => return Silence::Unknown("the stream was refused".to_owned()),
        Err(error) => return Silence::Unknown(error.to_string()),
    };
    let began = Instant::now();
    let pinging = async {
        loop {
            sleep(interval).await;
            if pings {
                session.ping().await;
            }
        }
    };
    let ended = tokio::select! {
        ended = timeout(limit + MARGIN, held.end()) => ended,
        () = pinging => return Silence::Unknown("pings never end".to_owned()),
    };
    match ended {
        Ok(End::InOrder) => Silence::Kept,
        Ok(End::Status(status)) => Silence::Unknown(format!("kas ended it: {}", status.message())),
        Ok(End::Cut) => Silence::CutAfter(rounded(began.elapsed())),
        // Nobody said that it was cut.
        Err(_) => Silence::CutAfter(limit),
    }
}

/// The same where kas does not know the call, or no token is at hand: a connection without streams.
pub(super) async fn check_connection(path: &AgentPath, hop: &str, report: &mut Report) {
    let limit = match path.token {
        Some(_) => path.idle_limit,
        None => path.idle_limit.min(WITHOUT_TOKEN_MAX),
    };
    let options = ConnectOptions {
        ping_interval: None,
        ..path.options.clone()
    };
    let opened = Session::open(&path.target, &options, &path.metadata).await;
    let finding = match opened {
        Err(error) => Finding::not_checked(error.to_string()),
        Ok(mut session) => {
            // The other end has to know that it is one with HTTP/2.
            session.ping().await;
            let began = Instant::now();
            match timeout(limit, session.ended()).await {
                Err(_) => Finding::ok(format!(
                    "open after {limit:?} in which nothing was sent, without a stream"
                )),
                Ok(()) => {
                    let after = rounded(began.elapsed());
                    let seen = format!("a connection without streams is cut after {after:?}");
                    Finding::warning(Fault::ConnectionTimeout, seen)
                }
            }
        }
    };
    report.add(hop, "idle connection", finding);
}

fn rounded(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / 100 * 100)
}
