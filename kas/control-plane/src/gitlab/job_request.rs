//! `jobs/request`: a runner asks GitLab for a job. Request and answer are GitLab's own, and are passed on as they are.
//!
//! A question is answered after up to a minute, so it has no place among the connections of the other calls: who
//! asks bounds how many there are.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};

use super::{
    call::Endpoint,
    client::Client,
    error::{AnswerError, CallError},
};

const PATH: &str = "/api/v4/jobs/request";
/// GitLab holds a question for 50 s when there is no job.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(70);
/// Bytes of an answer, at most.
const ANSWER_MAX_BYTES: usize = 10 << 20;
const LAST_UPDATE: HeaderName = HeaderName::from_static("x-gitlab-last-update");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What GitLab answered.
#[derive(Debug, Clone)]
pub struct JobAnswer {
    /// Its status.
    pub status: u16,
    /// Its JSON: a job with 201, nothing with 204, else why there is none.
    pub body: Bytes,
    /// Which state of the runner's queue it knows, for the next request.
    pub last_update: Option<HeaderValue>,
}

impl Client {
    /// Asks for a job, once. The runner's token is in the request.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn request_job(
        &self,
        request: Bytes,
        request_id: Option<HeaderValue>,
    ) -> Result<JobAnswer, CallError> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.ask_for_job(request, request_id));
        let answer = asked.await;
        let answer = answer.unwrap_or(Err(CallError::Timeout(ANSWER_TIMEOUT)));
        self.metrics().count(Endpoint::JobRequest, &answer);
        answer
    }

    async fn ask_for_job(
        &self,
        body: Bytes,
        request_id: Option<HeaderValue>,
    ) -> Result<JobAnswer, CallError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::ACCEPT, json.clone());
        headers.insert(header::CONTENT_TYPE, json);
        if let Some(id) = request_id {
            headers.insert(REQUEST_ID, id);
        }
        let response = self.exchange(PATH, request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await;
        let body = body.map_err(|error| match error.is::<hyper::Error>() {
            true => CallError::Unreachable {
                connected: true,
                detail: format!("the answer broke off: {error}"),
            },
            false => CallError::InvalidAnswer {
                path: PATH,
                why: AnswerError::TooLong(ANSWER_MAX_BYTES),
            },
        })?;
        Ok(JobAnswer {
            status: head.status.as_u16(),
            body: body.to_bytes(),
            last_update: head.headers.get(LAST_UPDATE).cloned(),
        })
    }
}
