//! `JobRouter.GetJob`: runners ask GitLab for jobs through this server, which passes on what both say.

use std::{net::IpAddr, pin::pin, sync::Arc};

use bytes::Bytes;
use control_plane::{
    TokenHash,
    gitlab::{CallError, GitLab, JobAnswer},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use proto::{
    agent::job_router::rpc::{GetJobRequest, GetJobResponse},
    bounds::Bounds,
    frame::Frame,
};
use runtime::{
    grpc::{CountedCall, MESSAGE_TIMEOUT, SendResponse, ok_trailers, receive, response_headers},
    shares::{Full, Limits, Share, Shares},
};
use tokio::{sync::Notify, time::Instant};
use tonic::{Code, Status};

use super::super::service::{Method, RunnerCall, refuse};

const NAME: &str = "GetJob";
/// The service's name, and the one that it had in GitLab 18.7.
const PATHS: [&str; 2] = [
    "/gitlab.agent.job_router.rpc.JobRouter/GetJob",
    "/gitlab.agent.runner.rpc.JobRouter/GetJob",
];
/// As much as runners send.
const REQUEST: Bounds = Bounds::bytes(10 << 20);
const LAST_UPDATE: HeaderName = HeaderName::from_static("x-gitlab-last-update");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a request's id.
const REQUEST_ID_MAX_BYTES: usize = 128;
/// Characters of GitLab's reason that a runner is told.
const REASON_CHARS_MAX: usize = 200;

/// Calls in progress by the runner's token: a runner asks once at a time, and has several processes at most.
const OF_RUNNER: Limits = Limits {
    total: 4000,
    each: 32,
    reserved: 400,
};
/// The same by address. All runners behind one load balancer have one.
const OF_ADDRESS: Limits = Limits {
    total: 4000,
    each: 3000,
    reserved: 400,
};
/// Requests that are being read, by the runner's token. Others wait.
const READ_OF_RUNNER: Limits = Limits {
    total: 32,
    each: 2,
    reserved: 8,
};
/// The same by address.
const READ_OF_ADDRESS: Limits = Limits {
    total: 32,
    each: 24,
    reserved: 4,
};
/// KiB of requests that wait for GitLab's answers, by runner.
const KIB: Limits = Limits {
    total: 256 << 10,
    each: 16 << 10,
    reserved: 32 << 10,
};

/// Serves runners.
#[derive(Debug, Clone)]
struct JobRouter {
    gitlab: GitLab,
    of_runner: Shares<TokenHash>,
    of_address: Shares<IpAddr>,
    read_of_runner: Shares<TokenHash>,
    read_of_address: Shares<IpAddr>,
    /// A request was read.
    read: Arc<Notify>,
    kib: Shares<TokenHash>,
}

/// Runners ask for jobs by these.
#[must_use]
pub fn route_jobs(gitlab: &GitLab) -> [Method; 2] {
    let router = JobRouter {
        gitlab: gitlab.clone(),
        of_runner: Shares::new(OF_RUNNER),
        of_address: Shares::new(OF_ADDRESS),
        read_of_runner: Shares::new(READ_OF_RUNNER),
        read_of_address: Shares::new(READ_OF_ADDRESS),
        read: Arc::default(),
        kib: Shares::new(KIB),
    };
    PATHS.map(|path| {
        let router = router.clone();
        Method::of_runners(path, move |call| {
            let router = router.clone();
            Box::pin(async move { router.serve(call).await })
        })
    })
}

impl JobRouter {
    async fn serve(&self, call: RunnerCall) -> bool {
        let RunnerCall {
            token,
            from,
            request,
            respond,
            counted,
            ..
        } = call;
        let (head, mut stream) = request.into_parts();
        let counted = counted.as_ref();
        let asked = self.ask((token, from), &head.headers, &mut stream, counted);
        match asked.await {
            Ok(answer) => {
                if let Some(call) = counted {
                    call.sent();
                    call.ends(Code::Ok);
                }
                send(respond, answer);
                true
            }
            Err(status) => {
                if let Some(call) = counted {
                    call.ends(status.code());
                }
                refuse(respond, &status, NAME);
                // GitLab knows the runner, or was not asked.
                !is_about_token(&status)
            }
        }
    }

    async fn ask(
        &self,
        (token, from): (TokenHash, IpAddr),
        headers: &HeaderMap,
        stream: &mut h2::RecvStream,
        counted: Option<&CountedCall>,
    ) -> Result<JobAnswer, Status> {
        let _address = self.of_address.take(from, 1).map_err(|it| full(&it))?;
        let _runner = self.of_runner.take(token, 1).map_err(|it| full(&it))?;
        let reading = self.reading(token, from).await?;
        let GetJobRequest { job_request } = receive(headers, stream, &REQUEST).await?;
        drop(reading);
        if let Some(call) = counted {
            call.received();
        }
        let kib = job_request.len().div_ceil(1024);
        let _kib = self.kib.take(token, kib).map_err(|it| full(&it))?;
        let asked = self.gitlab.client();
        let answer = asked.request_job(job_request, request_id(headers)).await;
        let answer = answer.map_err(|error| unavailable(&error))?;
        match answer.status {
            200 | 201 | 204 => Ok(answer),
            status => Err(refusal(status, &answer.body)),
        }
    }
}

/// A place among the requests that are being read.
struct Reading<'r> {
    shares: Option<(Share<TokenHash>, Share<IpAddr>)>,
    read: &'r Notify,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.shares = None;
        self.read.notify_waiters();
    }
}

impl JobRouter {
    /// Waits for a place among the requests that are being read. Cancel-safe.
    async fn reading(&self, token: TokenHash, from: IpAddr) -> Result<Reading<'_>, Status> {
        let deadline = Instant::now() + MESSAGE_TIMEOUT;
        loop {
            let mut read = pin!(self.read.notified());
            read.as_mut().enable();
            let runner = self.read_of_runner.take(token, 1);
            let both = runner.and_then(|it| Ok((it, self.read_of_address.take(from, 1)?)));
            let error = match both {
                Ok(shares) => {
                    return Ok(Reading {
                        shares: Some(shares),
                        read: &self.read,
                    });
                }
                Err(error) => error,
            };
            let waited = tokio::time::timeout_at(deadline, read).await;
            waited.map_err(|_| full(&error))?;
        }
    }
}

fn send(mut respond: SendResponse, answer: JobAnswer) {
    let mut head = response_headers();
    if let Some(value) = answer.last_update {
        head.headers_mut().insert(LAST_UPDATE, value);
    }
    let message = GetJobResponse {
        job_response: answer.body,
    };
    // A runner that is gone needs no answer.
    if let Ok(mut stream) = respond.send_response(head, false)
        && stream.send_data(Frame::message(&message), false).is_ok()
    {
        let _ = stream.send_trailers(ok_trailers());
    }
}

fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(REQUEST_ID)?;
    let good = !id.is_empty() && id.len() <= REQUEST_ID_MAX_BYTES;
    good.then(|| id.clone())
}

fn full(full: &Full) -> Status {
    Status::resource_exhausted(format!("too many requests of runners for jobs: {full}"))
}

fn unavailable(error: &CallError) -> Status {
    Status::unavailable(error.to_string())
}

/// GitLab's refusal, in its words.
fn refusal(status: u16, body: &Bytes) -> Status {
    let code = match status {
        400 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 => Code::Aborted,
        429 => Code::ResourceExhausted,
        _ => Code::Unavailable,
    };
    let said: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let reason = said.and_then(|it| Some(it.get("message")?.as_str()?.to_owned()));
    let reason = reason.unwrap_or_default();
    let reason = reason.chars().filter(|it| !it.is_control());
    let reason: String = reason.take(REASON_CHARS_MAX).collect();
    Status::new(code, format!("GitLab answers {status} {reason}").trim_end())
}

fn is_about_token(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
    )
}
