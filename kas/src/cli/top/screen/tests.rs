//! The screen, drawn without a terminal.

use std::time::Duration;

use admin::v1::{
    Agent, AgentReference, Certificate, Coverage, ReplicaDetails, ReplicaEntry, Session,
};
use ratatui::{Terminal, backend::TestBackend};

use super::*;

const NOW: &str = "2026-03-01T12:00:00Z";

fn picture(at: Instant, requests: u64, problem: &str, agents: i64) -> Picture {
    let gone = Agent {
        id: 7,
        name: "prod-eu".into(),
        state: "disconnected".into(),
        ..Agent::default()
    };
    let there = (8..).map(|id| Agent {
        id,
        name: format!("shop-{id}"),
        state: "connected".into(),
        process_count: 2,
        connected_since: "2026-03-01T11:57:00Z".into(),
        labels: [("version", "v18.5.0"), ("kubernetes", "v1.33.0")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        replicas: vec!["replica-1".into(), "replica-2".into()],
        ..Agent::default()
    });
    let rest = usize::try_from(agents - 1).unwrap();
    Picture {
        status: FleetStatus {
            agents: 30,
            agents_connected: 29,
            replicas: 3,
            store: "available".into(),
            requests_total: requests,
            coverage: Some(Coverage {
                complete: problem.is_empty(),
                problem: problem.into(),
                as_of: NOW.into(),
                ..Coverage::default()
            }),
            ..FleetStatus::default()
        },
        at,
        list: List::Agents(ListAgentsResponse {
            agents: [gone].into_iter().chain(there.take(rest)).collect(),
            total: 30,
            ..ListAgentsResponse::default()
        }),
    }
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen.draw(frame)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn the_headline_says_how_many_are_there_and_how_many_requests_a_second() {
    let mut screen = Screen::default();
    let now = Instant::now();
    assert!(drawn(&mut screen, 80, 24).contains("asking the server"));
    screen.show(Ok(picture(now, 100, "", 2)));
    screen.show(Ok(picture(now + Duration::from_secs(2), 120, "", 2)));

    for (width, height) in [(80, 24), (140, 40)] {
        let text = drawn(&mut screen, width, height);

        let told = "29 of 30 agents connected, 3 replicas, store available";
        assert!(text.contains(told), "{text}");
        assert!(text.contains("10.0 requests/s, 0.0 failed/s"), "{text}");
        assert!(text.contains("prod-eu  disconnected"), "{text}");
        assert!(text.contains("shop-8   connected     2     3m"), "{text}");
        assert!(text.contains("1-2 of 30"), "{text}");
        assert!(!text.contains("NOT COMPLETE"), "{text}");
        assert_eq!(text.contains("replica-1,replica-2"), width == 140, "{text}");
    }
}

#[test]
fn what_is_not_known_and_who_does_not_answer_is_said_in_whole() {
    let mut screen = Screen::default();
    let long = "the store is away ".repeat(8);
    screen.show(Ok(picture(Instant::now(), 1, &format!("{long}!"), 1)));
    let text = drawn(&mut screen, 80, 24);
    assert!(
        text.contains("NOT COMPLETE: the store is away") && text.contains('!'),
        "{text}"
    );

    screen.show(Err(tonic::Status::unavailable("gone").into()));

    let text = drawn(&mut screen, 80, 24);
    assert!(text.contains("NO ANSWER: the server says: gone"), "{text}");
    assert!(text.contains("prod-eu"), "what was told last stays: {text}");
}

#[test]
fn a_certificate_that_ends_soon_is_named() {
    let mut screen = Screen::default();
    for (not_after, told) in [
        (
            "2026-03-14T11:00:00Z",
            "CERTIFICATE ends in 12 days: /tls.crt of a",
        ),
        (
            "2026-02-28T12:00:00Z",
            "CERTIFICATE has ended: /tls.crt of a",
        ),
        ("2027-01-01T00:00:00Z", ""),
    ] {
        let mut picture = picture(Instant::now(), 1, "", 1);
        picture.status.certificates = vec![Certificate {
            file: "/tls.crt".into(),
            not_after: not_after.into(),
            replica: "a".into(),
        }];
        screen.show(Ok(picture));

        let text = drawn(&mut screen, 80, 24);

        assert!(text.contains(told), "{text}");
        assert_eq!(text.contains("CERTIFICATE"), !told.is_empty(), "{text}");
    }
}

#[test]
fn keys_choose_what_is_shown_and_scroll_no_further_than_there_is() {
    let mut screen = Screen::default();
    screen.show(Ok(picture(Instant::now(), 1, "", 30)));
    // Headline, tabs, heads and keys leave ten rows.
    drawn(&mut screen, 80, 15);

    screen.press(KeyCode::Char('k'));
    screen.press(KeyCode::Char('j'));
    assert!(drawn(&mut screen, 80, 15).contains("2-11 of 30"));
    screen.press(KeyCode::PageDown);
    assert!(drawn(&mut screen, 80, 15).contains("12-21 of 30"));
    screen.press(KeyCode::Char('G'));
    let text = drawn(&mut screen, 80, 15);
    assert!(
        text.contains("21-30 of 30") && text.contains("shop-36"),
        "{text}"
    );

    screen.press(KeyCode::Tab);
    assert_eq!(screen.tab(), Tab::Replicas);
    screen.press(KeyCode::BackTab);
    screen.press(KeyCode::Char('4'));
    assert_eq!(screen.tab(), Tab::Requests);
    assert_eq!(screen.offset, 0);
}

#[test]
fn a_replica_that_does_not_answer_is_shown_with_the_reason() {
    let mut screen = Screen::default();
    let entry = |id: &str, problem: &str| ReplicaEntry {
        id: id.into(),
        state: "serving".into(),
        details: problem.is_empty().then(|| ReplicaDetails {
            agents: 12,
            store: "available".into(),
            started_at: "2026-02-27T12:00:00Z".into(),
            ..ReplicaDetails::default()
        }),
        problem: problem.into(),
        ..ReplicaEntry::default()
    };
    screen.show(Ok(Picture {
        list: List::Replicas(ListReplicasResponse {
            replicas: vec![entry("a", ""), entry("b", "no answer within 2s")],
            ..ListReplicasResponse::default()
        }),
        ..picture(Instant::now(), 1, "", 1)
    }));
    screen.press(KeyCode::Char('2'));

    for (width, up) in [(80, ""), (140, "  2d")] {
        let text = drawn(&mut screen, width, 24);

        let told = format!("12      0/0           0         available{up}");
        assert!(text.contains(&told), "{text}");
        assert!(text.contains("no answer within 2s"), "{text}");
    }
}

#[test]
fn sessions_are_shown_with_what_ends_them() {
    let mut screen = Screen::default();
    let session = Session {
        id: "k1-7".into(),
        kind: "exec".into(),
        caller: "user:ana".into(),
        agent: Some(AgentReference {
            id: 8,
            name: "prod-eu".into(),
        }),
        path: "/api/v1/namespaces/shop/pods/cart/exec".into(),
        started_at: "2026-03-01T11:57:00Z".into(),
        ..Session::default()
    };
    screen.press(KeyCode::Char('3'));
    assert_eq!(screen.tab(), Tab::Sessions);
    screen.show(Ok(Picture {
        list: List::Sessions(ListSessionsResponse {
            sessions: vec![session],
            total: 1,
            ..ListSessionsResponse::default()
        }),
        ..picture(Instant::now(), 1, "", 1)
    }));

    for (width, id) in [(80, true), (140, true), (40, false)] {
        let text = drawn(&mut screen, width, 24);

        assert!(
            text.contains("3m") && text.contains("user:ana  exec"),
            "{text}"
        );
        assert_eq!(text.contains("k1-7"), id, "{text}");
    }
}

#[test]
fn nothing_is_said_in_words() {
    let mut screen = Screen::default();
    screen.show(Ok(Picture {
        list: List::Requests(ListRequestsResponse::default()),
        ..picture(Instant::now(), 1, "", 1)
    }));
    screen.press(KeyCode::Char('4'));

    assert!(drawn(&mut screen, 80, 24).contains("no requests are in progress"));
}
