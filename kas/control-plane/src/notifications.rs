//! Notifications of GitLab about pushes to projects: GitLab calls one replica,
//! which publishes them to all.
//!
//! With a shared store, notifications go through GitLab's own channel in the
//! format of GitLab's kas; without, they stay in the process. Nothing is stored:
//! a notification makes a subscriber poll earlier than it would have anyway.

use std::sync::Arc;

use bytes::Bytes;
use cluster_state::{Channel, ChannelEvent, StoreError};
use prost::Message as _;
use prost_types::Any;
use proto::agent::event::{GitPushEvent, Project};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// The channel of GitLab's kas. It has no key prefix.
pub const CHANNEL: &str = "kas_events";

/// The protobuf type of a notification.
const GIT_PUSH_TYPE_URL: &str = "type.googleapis.com/gitlab.agent.event.GitPushEvent";
/// Events that may wait for a subscriber; one that falls behind lags.
const EVENT_QUEUE: usize = 256;

/// What a subscriber receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A push to a project.
    GitPush(GitPush),
    /// Events may have been missed: anything may have been pushed.
    Missed,
}

/// A push to a project's repository, to whichever branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitPush {
    /// The project's id.
    pub project_id: i64,
    /// Its full path.
    pub project_path: Arc<str>,
}

/// Publishes events to the subscribers of all replicas. Clones share them.
#[derive(Debug, Clone)]
pub struct Notifications {
    events: broadcast::Sender<Event>,
    channel: Option<Arc<dyn Channel>>,
}

impl Notifications {
    /// Notifications through a channel that replicas share, for which
    /// [`run`](Self::run) has to run; `None` keeps them in the process.
    #[must_use]
    pub fn new(channel: Option<Arc<dyn Channel>>) -> Self {
        Self {
            events: broadcast::Sender::new(EVENT_QUEUE),
            channel,
        }
    }

    /// Events from now on. A receiver that lags must act as on [`Event::Missed`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Publishes a push to the subscribers of all replicas.
    ///
    /// # Errors
    /// When the store does not take it; some replicas may have received it.
    pub async fn publish(&self, push: GitPush) -> Result<(), StoreError> {
        match &self.channel {
            Some(channel) => channel.publish(encode(&push)).await,
            None => {
                self.dispatch(Event::GitPush(push));
                Ok(())
            }
        }
    }

    /// Receives what replicas publish, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Some(channel) = self.channel.clone() else {
            return;
        };
        let mut on_event = |event| match event {
            ChannelEvent::Gap => self.dispatch(Event::Missed),
            ChannelEvent::Message(message) => match decode(message) {
                Ok(push) => self.dispatch(Event::GitPush(push)),
                Err(error) => {
                    tracing::warn!(channel = CHANNEL, %error, "ignored a malformed push notification");
                }
            },
        };
        stop.run_until_cancelled(channel.listen(&mut on_event))
            .await;
    }

    /// There may be no subscriber.
    fn dispatch(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

fn encode(push: &GitPush) -> Bytes {
    let event = GitPushEvent {
        project: Some(Project {
            id: push.project_id,
            full_path: push.project_path.to_string(),
        }),
    };
    let any = Any {
        type_url: GIT_PUSH_TYPE_URL.to_owned(),
        value: event.encode_to_vec(),
    };
    any.encode_to_vec().into()
}

/// A message that is no push notification.
#[derive(Debug, PartialEq, thiserror::Error)]
enum NotificationError {
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
    #[error("its type is {0:?}")]
    Type(String),
    #[error("it names no project")]
    NoProject,
}

fn decode(message: Bytes) -> Result<GitPush, NotificationError> {
    let any = Any::decode(message)?;
    if any.type_url != GIT_PUSH_TYPE_URL {
        return Err(NotificationError::Type(any.type_url));
    }
    let event = GitPushEvent::decode(any.value.as_slice())?;
    let project = event.project.ok_or(NotificationError::NoProject)?;
    Ok(GitPush {
        project_id: project.id,
        project_path: project.full_path.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push() -> GitPush {
        GitPush {
            project_id: 7,
            project_path: "group/project".into(),
        }
    }

    #[tokio::test]
    async fn within_a_process_every_subscriber_receives_a_push() {
        let notifications = Notifications::new(None);
        let (mut one, mut two) = (notifications.subscribe(), notifications.subscribe());

        notifications.publish(push()).await.unwrap();

        assert_eq!(one.recv().await, Ok(Event::GitPush(push())));
        assert_eq!(two.recv().await, Ok(Event::GitPush(push())));
    }

    #[test]
    fn events_are_written_as_gitlabs_kas_does() {
        let written = encode(&push());

        let any = b"\x0a\x33type.googleapis.com/gitlab.agent.event.GitPushEvent\x12\x13";
        assert_eq!(&written[..any.len()], any);
        assert_eq!(
            &written[any.len()..],
            b"\x0a\x11\x08\x07\x12\x0dgroup/project"
        );
        assert_eq!(decode(written), Ok(push()));
        assert!(decode(Bytes::from_static(b"\xff")).is_err());
        assert!(decode(Any::default().encode_to_vec().into()).is_err());
    }
}
