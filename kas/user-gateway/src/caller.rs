//! The caller of a conversation, such as a WebSocket: what it reads from the cluster are requests of theirs, each
//! with the rights that they have then.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use control_plane::{Access, Identity};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use runtime::drain::Drain;
use tokio::time::Instant;

use crate::{
    admission::{Admission, Rights},
    body::ResponseBody,
    failure::Failure,
    kubernetes_api::KubernetesApi,
    scope::Scope,
    sessions::SessionKind,
    target::Target,
};

/// How long a conversation may last that was begun with a token that is good for one request: nobody can be asked
/// again whether its caller may go on.
const TOKEN_CONVERSATION_TTL: Duration = Duration::from_secs(3600);
/// How long any other conversation may last.
const CONVERSATION_TTL: Duration = Duration::from_secs(24 * 3600);
/// Headers with which a caller who may act as the agent acts as another.
const IMPERSONATION: &str = "impersonate-";

/// Who converses.
#[derive(Debug)]
pub(crate) struct Caller {
    api: Arc<KubernetesApi>,
    rights: Rights,
    access: Mutex<Access>,
    identity: Identity,
    headers: HeaderMap,
    remote_addr: SocketAddr,
    until: Instant,
    drain: Drain,
}

impl Caller {
    /// Admits the caller of a request to `path`, which begins a conversation.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) async fn admit(
        (api, admission): (Arc<KubernetesApi>, &Admission),
        (head, remote_addr): (&Parts, SocketAddr),
        path: &str,
        scope: &mut Scope,
        drain: &Drain,
    ) -> Result<Self, Failure> {
        let admitted = admission.admit(head, path, remote_addr.ip(), scope);
        let (access, rights) = admitted.await?;
        let ttl = match rights.credentials() {
            Some(_) => CONVERSATION_TTL,
            None => TOKEN_CONVERSATION_TTL,
        };
        let until = Instant::now() + ttl;
        Ok(Self {
            api,
            rights: rights.lasting(&access, until),
            identity: access.identity.clone(),
            access: Mutex::new(access),
            headers: headers(&head.headers),
            remote_addr,
            until,
            drain: drain.clone(),
        })
    }

    /// The conversation is a session from now on.
    pub(crate) fn opens(&self, kind: SessionKind, scope: &mut Scope) {
        let access = self.access.lock();
        let access = access.unwrap_or_else(PoisonError::into_inner);
        scope.opens(kind, self.rights.authority(), access.impersonation.clone());
    }

    /// Who it is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Until when the conversation may last.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Reads something from the cluster, as JSON: what the caller may then.
    ///
    /// # Errors
    /// The refusal, or why there is no answer.
    pub(crate) async fn get(&self, target: Target) -> Result<Response<ResponseBody>, Failure> {
        self.get_as(target, HeaderValue::from_static("application/json"))
            .await
    }

    /// The same in another form.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn get_as(
        &self,
        target: Target,
        accept: HeaderValue,
    ) -> Result<Response<ResponseBody>, Failure> {
        let access = self.renewed().await?;
        let mut headers = self.headers.clone();
        // There are fewer than the handshake had.
        let _ = headers.try_insert(header::ACCEPT, accept);
        let whose = (access, self.rights.again());
        let asked = (headers, self.remote_addr);
        self.api.get(whose, target, asked, &self.drain).await
    }

    /// What the caller may now.
    async fn renewed(&self) -> Result<Access, Failure> {
        if self.rights.are_old() {
            let access = self.rights.ask().await?;
            if access.identity != self.identity {
                let message = "Forbidden: the credentials now belong to another caller";
                return Err(Failure::new(StatusCode::FORBIDDEN, message));
            }
            *self.access.lock().unwrap_or_else(PoisonError::into_inner) = access;
        }
        let access = self.access.lock();
        Ok(access.unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// What a request of the conversation takes from its handshake.
fn headers(of: &HeaderMap) -> HeaderMap {
    let is_kept = |name: &str| name == header::USER_AGENT || name.starts_with(IMPERSONATION);
    let kept = of.iter().filter(|(name, _)| is_kept(name.as_str()));
    let mut headers = HeaderMap::new();
    for (name, value) in kept {
        // There are fewer than the handshake had.
        let _ = headers.try_append(name.clone(), value.clone());
    }
    headers
}
