//! A request's records in the audit trail. Where there is none nothing is kept or made.

use audit::{
    ActsAs, AgentName, Attributes, Audit, Class, Kind, NotRecorded, Record, Recorded, Recording,
    RecordingError, Text, texts,
};
use control_plane::{Access, Basis, Credentials, RecordSessions};
use futures_util::future::{BoxFuture, ready};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proto::{agent::kubernetes_api::rpc::ImpersonationConfig, metadata::Meta};
use runtime::telemetry::Repeats;

use super::{Scope, millis};
use crate::{failure::Failure, sessions::SessionId};

/// The id that an API server's own audit trail has for a request.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// As whom a caller who may act as the agent wants to act.
const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");

/// What is kept for the records of a request.
#[derive(Debug)]
pub(super) struct Audited {
    audit: Audit,
    asked: Option<Box<Asked>>,
    /// Of a session that is not opened yet.
    recording: Option<Box<Recording>>,
    /// What such a session is called.
    session: Option<SessionId>,
}

/// What a caller who was let in asks of the cluster.
#[derive(Debug)]
struct Asked {
    attributes: Attributes,
    /// Whether it asks for another protocol.
    upgrade: bool,
    basis: Basis,
    token_id: Option<String>,
    acts_as: Option<ImpersonationConfig>,
    impersonates: Option<HeaderValue>,
    audit_id: Option<HeaderValue>,
    /// The URL of the other replica on the way.
    peer: Option<String>,
    recorded: Option<Recorded>,
}

impl Audited {
    pub(super) fn of(audit: &Audit) -> Self {
        Self {
            audit: audit.clone(),
            asked: None,
            recording: None,
            session: None,
        }
    }

    /// What the session is called that is to be opened, if it has a name.
    pub(super) fn session_id(&self) -> Option<SessionId> {
        self.session
    }
}

impl Scope {
    /// It is known what a caller who was let in asks of the cluster. Nothing is kept where nobody wants to know.
    pub(crate) fn asks(
        &mut self,
        (access, credentials): (&Access, Option<&Credentials>),
        (method, headers): (&Method, &HeaderMap),
        (path, query): (&str, &Meta),
        upgrade: bool,
    ) {
        let audit = &self.audited.audit;
        if !audit.is_on() && access.basis.record == RecordSessions::No {
            return;
        }
        let parameter = |name: &str| {
            let values = query.get(name);
            values.map_or(&[][..], |it| &it.value)
        };
        self.audited.asked = Some(Box::new(Asked {
            attributes: Attributes::of(method, path, parameter, upgrade),
            upgrade,
            basis: access.basis.clone(),
            token_id: credentials.map(|it| it.token().hash().fingerprint()),
            acts_as: access.impersonation.clone(),
            impersonates: headers.get(IMPERSONATE_USER).cloned(),
            audit_id: None,
            peer: None,
            recorded: None,
        }));
    }

    /// Begins the recording of a session that is to be recorded. Where there is anything to wait for, nothing may be
    /// sent before.
    pub(crate) fn open_recording(
        &mut self,
    ) -> Option<BoxFuture<'static, Result<Option<Box<Recording>>, Failure>>> {
        let audit = self.audited.audit.clone();
        let wish = self.audited.asked.as_ref()?.wish(audit.records_all())?;
        let required = match wish {
            RecordSessions::Required => true,
            RecordSessions::Yes | RecordSessions::No => audit.is_required(),
        };
        let asked = self.audited.asked.as_ref()?;
        if asked.attributes.is_kubelet() {
            let refused = required.then(|| {
                let why = "what goes to the kubelet past the API cannot be recorded, and sessions of this caller must be; \
                           use the subresources of the pod";
                Failure::new(StatusCode::FORBIDDEN, why)
            });
            return refused.map(|failure| Box::pin(ready(Err(failure))) as _);
        }
        let id = SessionId::new();
        self.audited.session = Some(id);
        let opening = audit.open_recording(id.to_string(), &self.record(Kind::Begin), required);
        Some(Box::pin(async move {
            match opening.await {
                Ok(recording) => Ok(Some(Box::new(recording))),
                Err(error) if required => Err(not_recorded(&error)),
                Err(error) => {
                    static FAILED: Repeats = Repeats::sparse("sessions without a recording");
                    if FAILED.admit() {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "a session is not recorded that should be");
                    }
                    Ok(None)
                }
            }
        }))
    }

    /// It has this recording, until the session is opened that it is of.
    pub(crate) fn has_recording(&mut self, recording: Option<Box<Recording>>) {
        if let (Some(asked), Some(recording)) = (&mut self.audited.asked, &recording) {
            asked.recorded = Some(Recorded {
                file: recording.file().to_owned(),
                ..Recorded::default()
            });
        }
        self.audited.recording = recording;
    }

    /// The session is opened: its recording, if there is one.
    pub(crate) fn take_recording(&mut self) -> Option<Box<Recording>> {
        self.audited.recording.take()
    }

    /// The session is over, and this is what is known of its recording.
    pub(crate) fn recorded(&mut self, recorded: Recorded) {
        self.audited.audit.count_recording(&recorded);
        if let Some(asked) = &mut self.audited.asked {
            asked.recorded = Some(recorded);
        }
    }

    /// Records that the request is about to reach its cluster. Where there is anything to wait for, nothing may be
    /// sent before.
    pub(crate) fn announce(&mut self) -> Option<BoxFuture<'static, Result<(), Failure>>> {
        let class = self.audited.asked.as_ref()?.attributes.class;
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
    /// Whether the session that it would open is to be recorded.
    fn wish(&self, all: bool) -> Option<RecordSessions> {
        let opens = match self.attributes.is_kubelet() {
            true => self.upgrade || self.attributes.class == Class::Change,
            false => self.upgrade && self.attributes.is_terminal(),
        };
        let wish = match self.basis.record {
            RecordSessions::No if all => RecordSessions::Yes,
            of_rule => of_rule,
        };
        (opens && wish != RecordSessions::No).then_some(wish)
    }

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
        record.recording.clone_from(&self.recorded);
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

/// What a client is told whose session must be recorded and is not.
pub(crate) fn not_recorded(error: &RecordingError) -> Failure {
    let why = format!("this session must be recorded: {error}");
    Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, why)
}
