//! A request's records in the audit trail. Where there is none nothing is kept or made.

use audit::{ActsAs, AgentName, Attributes, Audit, Kind, NotRecorded, Record, Text, texts};
use control_plane::{Access, Basis, Credentials};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proto::{agent::kubernetes_api::rpc::ImpersonationConfig, metadata::Meta};

use super::{Scope, millis};
use crate::failure::Failure;

/// The id that an API server's own audit trail has for a request.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// As whom a caller who may act as the agent wants to act.
const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");

/// What is kept for the records of a request.
#[derive(Debug)]
pub(super) struct Audited {
    audit: Audit,
    asked: Option<Box<Asked>>,
}

/// What a caller who was let in asks of the cluster.
#[derive(Debug)]
struct Asked {
    attributes: Attributes,
    basis: Basis,
    token_id: Option<String>,
    acts_as: Option<ImpersonationConfig>,
    impersonates: Option<HeaderValue>,
    audit_id: Option<HeaderValue>,
    /// The URL of the other replica on the way.
    peer: Option<String>,
}

impl Audited {
    pub(super) fn of(audit: &Audit) -> Self {
        Self {
            audit: audit.clone(),
            asked: None,
        }
    }
}

impl Scope {
    /// Records that the request is about to reach its cluster. Where there is anything to wait for, nothing may be
    /// sent before.
    pub(crate) fn announce(
        &mut self,
        (access, credentials): (&Access, Option<&Credentials>),
        (method, headers): (&Method, &HeaderMap),
        (path, query): (&str, &Meta),
        upgrade: bool,
    ) -> Option<BoxFuture<'static, Result<(), Failure>>> {
        if !self.audited.audit.is_on() {
            return None;
        }
        let parameter = |name: &str| {
            let values = query.get(name);
            values.map_or(&[][..], |it| &it.value)
        };
        let attributes = Attributes::of(method, path, parameter, upgrade);
        let class = attributes.class;
        self.audited.asked = Some(Box::new(Asked {
            attributes,
            basis: access.basis.clone(),
            token_id: credentials.map(|it| it.token().hash().fingerprint()),
            acts_as: access.impersonation.clone(),
            impersonates: headers.get(IMPERSONATE_USER).cloned(),
            audit_id: None,
            peer: None,
        }));
        if !self.audited.audit.begins(class) {
            return None;
        }
        let recorded = self.audited.audit.announce(&self.record(Kind::Begin))?;
        let refused = |error: NotRecorded| {
            Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        };
        Some(Box::pin(async move { recorded.await.map_err(refused) }))
    }

    /// It is sent to its agent, by this replica or by the one of this URL.
    pub(crate) fn passes(&mut self, peer: Option<&str>) {
        if let Some(asked) = &mut self.audited.asked {
            asked.peer = peer.map(str::to_owned);
        }
    }

    /// It has an answer with this head.
    pub(crate) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        if let Some(asked) = &mut self.audited.asked {
            asked.audit_id = headers.get(AUDIT_ID).cloned();
        }
    }

    /// Records that it is over.
    pub(super) fn record_end(&self) {
        let audit = &self.audited.audit;
        let class = self.audited.asked.as_ref().map(|it| it.attributes.class);
        if !audit.is_on() || class.is_some_and(|class| !audit.ends(class)) {
            return;
        }
        let mut record = self.record(Kind::End);
        let asked = self.audited.asked.as_ref();
        record.cluster_audit_id = asked.and_then(|it| text(it.audit_id.as_ref()));
        record.status = Some(self.status);
        record.cut = Some(self.cut || self.status == 0);
        record.received_bytes = Some(self.received);
        record.sent_bytes = Some(self.sent);
        record.duration_ms = Some(millis(self.started.elapsed()));
        record.reason = Text::given(&self.reason);
        audit.note(&record);
    }

    /// What both records have.
    fn record(&self, kind: Kind) -> Record<'_> {
        let mut record = Record::new(kind);
        record.request_id = Some(self.id.as_str());
        record.trace_id = self.trace.trace_id();
        record.user = Text::given(&self.caller);
        record.agent = self.agent.map(|agent| AgentName {
            id: agent.0,
            name: &self.agent_name,
        });
        record.method = Some(self.method.as_str().into());
        record.path = Some(self.uri.path().into());
        record.client = Some(match self.remote_addr.port() {
            0 => self.remote_addr.ip().to_string(),
            _ => self.remote_addr.to_string(),
        });
        record.user_agent = text(self.user_agent.as_ref());
        record.via = vec![self.audited.audit.replica().into()];
        let cluster = self
            .agent
            .and_then(|it| self.audited.audit.cluster_of(it.0));
        record.cluster_uid = cluster.map(Into::into);
        if let Some(asked) = &self.audited.asked {
            record.via.extend(asked.peer.as_deref().map(Into::into));
            asked.describe(&mut record);
        }
        record
    }
}

impl Asked {
    fn describe<'a>(&'a self, record: &mut Record<'a>) {
        let it = &self.attributes;
        record.verb = Text::given(&it.verb);
        if !it.version.is_empty() {
            record.api_group = Some(it.group.as_str().into());
        }
        record.api_version = Text::given(&it.version);
        record.resource = Text::given(&it.resource);
        record.subresource = Text::given(&it.subresource);
        record.namespace = Text::given(&it.namespace);
        record.name = Text::given(&it.name);
        record.container = Text::given(&it.container);
        record.command = texts(it.command.iter().map(String::as_str));
        record.issuer = self.basis.issuer.as_deref().map(Into::into);
        record.rule = self.basis.rule.as_deref().map(Into::into);
        record.token_id = self.token_id.as_deref().map(Into::into);
        record.acts_as = Some(match &self.acts_as {
            None => ActsAs::Agent {
                impersonates: text(self.impersonates.as_ref()),
            },
            Some(identity) => ActsAs::Identity {
                username: identity.username.as_str().into(),
                groups: texts(identity.groups.iter().map(String::as_str)),
                uid: Text::given(&identity.uid),
            },
        });
    }
}

fn text(value: Option<&HeaderValue>) -> Option<Text<'_>> {
    Some(Text(String::from_utf8_lossy(value?.as_bytes())))
}
