use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use control_plane::{AgentInfo, Basis, IdentityKind};
use tokio::sync::watch;

use super::*;

/// Allows as long as its number is that of the caller's last rights.
#[derive(Debug)]
struct Plane {
    asked: AtomicUsize,
    answer: Mutex<Result<Vec<String>, Failure>>,
}

#[derive(Debug)]
struct Rights(Arc<Plane>, Instant);

impl Authority for Rights {
    fn decided(&self) -> Instant {
        self.1
    }

    fn ask(&self) -> BoxFuture<'_, Result<Access, Failure>> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.0.answer.lock().unwrap().clone();
        Box::pin(async move {
            let groups = answer?;
            Ok(Access {
                agent: Arc::new(AgentInfo {
                    id: AgentId(1),
                    name: "prod".into(),
                    project_id: 0,
                    project_path: String::new(),
                    default_branch: String::new(),
                }),
                identity: identity(),
                user_id: 0,
                impersonation: Some(acts_as(&groups)),
                basis: Basis::default(),
            })
        })
    }
}

fn identity() -> Identity {
    Identity {
        kind: IdentityKind::User,
        name: "ana".into(),
    }
}

fn acts_as(groups: &[String]) -> ImpersonationConfig {
    ImpersonationConfig {
        username: "ana".into(),
        groups: groups.to_vec(),
        ..ImpersonationConfig::default()
    }
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|it| (*it).to_owned()).collect()
}

fn plane() -> Arc<Plane> {
    Arc::new(Plane {
        asked: AtomicUsize::new(0),
        answer: Mutex::new(Ok(groups(&["a", "b"]))),
    })
}

fn new(kind: SessionKind, caller: &str, agent: i64, ground: Option<Ground>) -> NewSession {
    NewSession {
        id: None,
        kind,
        caller: caller.into(),
        agent: AgentId(agent),
        path: "/api/v1/pods".into(),
        remote_addr: "127.0.0.1:1".into(),
        request_id: "r".into(),
        ground,
    }
}

fn ground(plane: &Arc<Plane>) -> Ground {
    Ground {
        authority: Box::new(Rights(plane.clone(), Instant::now())),
        identity: identity(),
        acts_as: Some(acts_as(&groups(&["b", "a"]))),
    }
}

#[test]
fn sessions_are_found_by_agent_caller_and_kind_a_page_at_a_time() {
    let sessions = Sessions::default();
    let open = [
        new(SessionKind::Exec, "user:ana", 1, None),
        new(SessionKind::Watch, "user:ana", 2, None),
        new(SessionKind::Watch, "ci_job:7", 1, None),
    ]
    .map(|it| sessions.open(it));
    let count = |filter: SessionFilter| sessions.find(&filter, 9).1;
    let filter = SessionFilter::default();

    let agent = Some(AgentId(1));
    assert_eq!(
        count(SessionFilter {
            agent,
            ..filter.clone()
        }),
        2
    );
    let kind = Some(SessionKind::Watch);
    assert_eq!(
        count(SessionFilter {
            kind,
            ..filter.clone()
        }),
        2
    );
    for (name, found) in [("ana", 2), ("user:ana", 2), ("ci_job:7", 1), ("an", 0)] {
        let caller = Some(name.to_owned());
        assert_eq!(
            count(SessionFilter {
                caller,
                ..filter.clone()
            }),
            found,
            "{name}"
        );
    }
    let (first, total, more) = sessions.find(&filter, 2);
    assert_eq!((first.len(), total, more), (2, 3, true));
    let after = Some(first[1].id);
    let (rest, total, more) = sessions.find(&SessionFilter { after, ..filter }, 2);
    assert_eq!((rest.len(), total, more), (1, 3, false));
    assert!(rest[0].id > first[1].id && first[1].id > first[0].id);
    drop(open);
    assert_eq!(count(SessionFilter::default()), 0);
}

#[tokio::test]
async fn an_operator_ends_one_and_no_other() {
    let sessions = Sessions::default();
    let mut one = sessions.open(new(SessionKind::Exec, "user:ana", 1, None));
    let mut other = sessions.open(new(SessionKind::Exec, "user:ana", 1, None));
    let id = SessionId::parse(&one.open.info.id.to_string()).unwrap();
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(one.poll_ended(&mut cx).is_pending());

    assert!(sessions.end(id).is_some());

    assert!(one.ended().await.message.contains("an operator"));
    assert!(one.poll_ended(&mut cx).is_ready());
    assert!(other.poll_ended(&mut cx).is_pending());
    assert!(sessions.end(id).is_none(), "it is over");
    assert_eq!(sessions.find(&SessionFilter::default(), 9).1, 1);
    for wrong in ["", "1", "zz", "+0000000000000000001"] {
        assert_eq!(SessionId::parse(wrong), None);
    }
}

/// Sessions whose callers are asked about, and what changes the control plane.
fn watched() -> (Sessions, watch::Sender<u64>, CancellationToken) {
    let (sessions, revision) = (Sessions::default(), watch::Sender::new(0));
    let stop = CancellationToken::new();
    tokio::spawn(sessions.clone().recheck(revision.subscribe(), stop.clone()));
    (sessions, revision, stop)
}

#[tokio::test(start_paused = true)]
async fn whoever_is_revoked_loses_what_is_open_and_a_bystander_does_not() {
    let (sessions, revision, _stop) = watched();
    let (leaves, stays) = (plane(), plane());
    let lost = sessions.open(new(SessionKind::Exec, "user:ana", 1, Some(ground(&leaves))));
    let mut kept = sessions.open(new(SessionKind::Exec, "user:ana", 1, Some(ground(&stays))));
    *leaves.answer.lock().unwrap() = Err(Failure::new(StatusCode::UNAUTHORIZED, "gone"));

    revision.send_modify(|it| *it += 1);

    assert_eq!(lost.ended().await.message, "gone");
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(kept.poll_ended(&mut cx).is_pending());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_ended_while_the_control_plane_cannot_say_or_allows_more() {
    let (sessions, revision, _stop) = watched();
    let plane = plane();
    let mut open = sessions.open(new(SessionKind::Watch, "user:ana", 1, Some(ground(&plane))));
    let away = Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, "away");
    for (answer, goes_on) in [
        (Err(away), true),
        (Ok(groups(&["c", "b", "a"])), true),
        (Ok(groups(&["a"])), false),
    ] {
        *plane.answer.lock().unwrap() = answer;
        let asked = plane.asked.load(Ordering::Relaxed);
        revision.send_modify(|it| *it += 1);
        while plane.asked.load(Ordering::Relaxed) == asked {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(open.poll_ended(&mut cx).is_pending(), goes_on);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_opened_on_a_decision_of_before_the_change_is_asked_about_too() {
    let (sessions, revision, _stop) = watched();
    let plane = plane();
    let before = ground(&plane);
    let other = sessions.open(new(SessionKind::Exec, "user:bob", 1, Some(ground(&plane))));
    tokio::time::sleep(Duration::from_millis(1)).await;
    *plane.answer.lock().unwrap() = Err(Failure::new(StatusCode::UNAUTHORIZED, "gone"));
    revision.send_modify(|it| *it += 1);
    other.ended().await;

    let late = sessions.open(new(SessionKind::Exec, "user:ana", 1, Some(before)));

    assert_eq!(late.ended().await.message, "gone");
}
