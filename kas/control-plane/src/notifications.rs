//! What GitLab tells one replica, and all replicas hear: pushes to projects.
//!
//! With Redis, events go through GitLab's own channel, each as the message that
//! GitLab's kas writes there; without, they stay in the process. Nothing is
//! kept, so a listener only looks sooner than it would have looked anyway.

use std::sync::Arc;

use bytes::Bytes;
use cluster_state::{
    StoreError,
    redis::{Channel, Heard},
};
use prost::Message as _;
use prost_types::Any;
use proto::agent::event::{GitPushEvent, Project};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// The channel that GitLab's kas uses, whatever the key prefix is.
pub const CHANNEL: &str = "kas_events";

const GIT_PUSH: &str = "type.googleapis.com/gitlab.agent.event.GitPushEvent";
/// Events on their way to listeners; one that falls behind hears that it missed some.
const QUEUE: usize = 256;

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something was pushed to a project.
    GitPush(GitPush),
    /// Events may have been missed: anything may have been pushed.
    Missed,
}

/// A push to a project's repository, to whichever branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitPush {
    /// The project's number.
    pub project_id: i64,
    /// Its full path.
    pub project_path: Arc<str>,
}

/// Passes events to all listeners of all replicas. Clones share them.
#[derive(Debug, Clone)]
pub struct Notifications {
    events: broadcast::Sender<Event>,
    channel: Option<Channel>,
}

impl Notifications {
    /// For one process, or through a channel that replicas share; then
    /// [`run`](Self::run) must run.
    #[must_use]
    pub fn new(channel: Option<Channel>) -> Self {
        Self {
            events: broadcast::Sender::new(QUEUE),
            channel,
        }
    }

    /// Events from now on. A receiver that lags must act as on [`Event::Missed`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells all listeners of all replicas.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn publish(&self, push: GitPush) -> Result<(), StoreError> {
        match &self.channel {
            Some(channel) => channel.publish(encode(&push)).await,
            None => {
                self.tell(Event::GitPush(push));
                Ok(())
            }
        }
    }

    /// Hears what other replicas publish, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Some(channel) = self.channel.clone() else {
            return;
        };
        let listening = channel.listen(|heard| match heard {
            Heard::Gap => self.tell(Event::Missed),
            Heard::Message(message) => match decode(message) {
                Ok(push) => self.tell(Event::GitPush(push)),
                Err(why) => {
                    tracing::warn!(channel = CHANNEL, why, "an event that is not understood");
                }
            },
        });
        stop.run_until_cancelled(listening).await;
    }

    /// Nobody may listen, which is fine.
    fn tell(&self, event: Event) {
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
        type_url: GIT_PUSH.to_owned(),
        value: event.encode_to_vec(),
    };
    any.encode_to_vec().into()
}

fn decode(message: Bytes) -> Result<GitPush, String> {
    let any = Any::decode(message).map_err(|error| error.to_string())?;
    if any.type_url != GIT_PUSH {
        return Err(format!("its type is {:?}", any.type_url));
    }
    let event = GitPushEvent::decode(any.value.as_slice()).map_err(|error| error.to_string())?;
    let project = event.project.ok_or("it names no project")?;
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
    async fn within_a_process_every_listener_hears_a_push() {
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
