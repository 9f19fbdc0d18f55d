//! The control plane of a file: answers, and following the file.

use std::{fs, time::Duration};

use jiff::ToSpan;
use proto::agent::agentcfg::LogLevelEnum;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    tokens::{TokenEntry, TokenKind},
    *,
};

struct Fixture {
    directory: TempDir,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let fixture = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fixture.write(text);
        fixture
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("agents.yaml")
    }

    /// Replaces the file at once, as editors and mounted volumes do.
    fn write(&self, text: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file()).unwrap();
    }

    fn open(&self) -> Standalone {
        Standalone::open(self.file()).unwrap()
    }
}

fn agent(id: i64, name: &str, token: &str, config: &str) -> String {
    format!(
        "- {{id: {id}, name: {name}, tokens: [{}], config: {config}}}\n",
        token_entry(token)
    )
}

fn token_entry(token: &str) -> String {
    let hash = Token::new(token).hash();
    let hex = hex::encode(hash.as_bytes());
    format!("{{hash: 'sha256:{hex}', created_at: 2026-01-01T00:00:00Z}}")
}

/// So many agents with a token each, of which the last has this name.
fn many(agents: usize, last: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("agents:\n");
    for id in 1..=agents {
        let name = if id == agents { last } else { "agent" };
        let hash = hex::encode(Token::new(format!("token-{id}")).hash().as_bytes());
        let _ = write!(
            text,
            "- id: {id}\n  name: {name}-{id}\n  tokens:\n  - hash: sha256:{hash}\n    created_at: 2026-01-01T00:00:00Z\n"
        );
    }
    text + "users: []\naccess:\n- agents: '*'\n  groups: [admins]\n  access_as: agent\n"
}

#[test]
fn a_file_of_tens_of_thousands_of_agents_is_read_and_read_again_when_a_line_changes() {
    // More than the YAML library takes by itself (20,834). With 100,000 it passes too, and takes a debug build half a
    // minute.
    const AGENTS: usize = 22_000;
    let fixture = Fixture::new(&many(AGENTS, "agent"));
    let standalone = fixture.open();
    assert_eq!(standalone.directory().agents().count(), AGENTS);

    fixture.write(&many(AGENTS, "other"));
    let changed = standalone.reload_if_changed(Timestamp::now());

    assert!(changed.unwrap());
    let last = AgentId(i64::try_from(AGENTS).unwrap());
    let agent = standalone.directory().agent(last).unwrap();
    assert_eq!(agent.name, format!("other-{AGENTS}"));
}

#[test]
fn a_file_that_is_too_long_is_refused_and_what_was_read_stays_in_force() {
    let fixture = Fixture::new(&many(2, "agent"));
    let standalone = fixture.open();
    let long = fs::File::create(fixture.directory.path().join("new")).unwrap();
    // A sparse file takes no room.
    long.set_len(MAX_FILE_BYTES + 1).unwrap();
    fs::rename(fixture.directory.path().join("new"), fixture.file()).unwrap();

    let refused = standalone.reload_if_changed(Timestamp::now()).unwrap_err();

    assert!(matches!(refused, StandaloneError::TooLong(_)), "{refused}");
    assert!(
        refused.to_string().contains("more than 64 MiB"),
        "{refused}"
    );
    assert_eq!(standalone.directory().agents().count(), 2);
}

const DEBUG: &str = "{observability: {logging: {level: debug}}}";

#[tokio::test]
async fn an_agent_is_known_by_its_token() {
    let standalone = Fixture::new(&format!("agents:\n{}", agent(7, "demo", "t", "{}"))).open();

    let found = standalone.agent_by_token(&Token::new("t")).await.unwrap();
    let other = standalone.agent_by_token(&Token::new("u")).await;

    assert_eq!((found.id, found.name.as_str()), (AgentId(7), "demo"));
    assert_eq!(other, Err(AuthError::UnknownToken));
    assert_eq!(standalone.agent(AgentId(7)).await.unwrap().name, "demo");
    assert!(standalone.agent(AgentId(8)).await.is_none());
    assert_eq!(standalone.known_agents().len(), 1);
}

#[tokio::test]
async fn sessions_are_not_accepted() {
    let standalone = Fixture::new("agents: []").open();
    let session = Credentials::Session {
        access_key: Token::new("a"),
        csrf_token: Token::new(""),
    };

    let denied = standalone
        .authorize(&session, AgentId(1))
        .await
        .unwrap_err();

    assert!(denied.is_unauthenticated());
    assert_eq!(
        denied.to_string(),
        "session cookies are not accepted by this server"
    );
}

#[tokio::test]
async fn a_changed_file_is_applied_and_only_changes_are_told() {
    let fixture = Fixture::new(&format!(
        "agents:\n{}{}",
        agent(1, "one", "t1", "{}"),
        agent(2, "two", "t2", "{}")
    ));
    let standalone = fixture.open();
    let mut one = standalone.configuration(AgentId(1), "").unwrap();
    let two = standalone.configuration(AgentId(2), "").unwrap();
    let revision = *standalone.revision().borrow();

    fixture.write(&format!(
        "agents:\n{}{}",
        agent(1, "one", "t1-new", DEBUG),
        agent(2, "two", "t2", "{}")
    ));

    assert!(standalone.reload_if_changed(Timestamp::now()).unwrap());
    assert!(one.has_changed().unwrap());
    assert!(!two.has_changed().unwrap());
    let logging = one
        .borrow_and_update()
        .version
        .as_ref()
        .unwrap()
        .configuration
        .clone()
        .observability
        .unwrap()
        .logging;
    assert_eq!(logging.unwrap().level(), LogLevelEnum::Debug);
    assert!(*standalone.revision().borrow() > revision);
    assert!(standalone.agent_by_token(&Token::new("t1")).await.is_err());
    assert!(
        standalone
            .agent_by_token(&Token::new("t1-new"))
            .await
            .is_ok()
    );
}

#[test]
fn the_commit_id_names_the_content() {
    let read = |config| {
        let standalone = Fixture::new(&format!("agents:\n{}", agent(1, "one", "t", config))).open();
        let receiver = standalone.configuration(AgentId(1), "").unwrap();
        receiver
            .borrow()
            .version
            .as_ref()
            .unwrap()
            .commit_id
            .clone()
    };

    assert_eq!(read("{}"), read("{}"));
    assert_ne!(read("{}"), read(DEBUG));
    assert_eq!(read("{}").len(), 40);
}

#[test]
fn a_removed_agent_ends_its_configuration() {
    let fixture = Fixture::new(&format!("agents:\n{}", agent(1, "one", "t", "{}")));
    let standalone = fixture.open();
    let receiver = standalone.configuration(AgentId(1), "").unwrap();

    fixture.write("agents: []\n");

    assert!(standalone.reload_if_changed(Timestamp::now()).unwrap());
    assert!(receiver.has_changed().is_err());
    assert!(standalone.configuration(AgentId(1), "").is_none());
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_reported_once() {
    let good = format!("agents:\n{}", agent(1, "one", "t", "{}"));
    let fixture = Fixture::new(&good);
    let standalone = fixture.open();

    fixture.write(&format!(
        "agents:\n{}  nmae: x\n",
        agent(2, "two", "u", "{}")
    ));

    let error = standalone.reload_if_changed(Timestamp::now()).unwrap_err();
    assert!(error.to_string().contains("agents.yaml:3:"), "{error}");
    assert!(!standalone.reload_if_changed(Timestamp::now()).unwrap());
    assert!(standalone.agent_by_token(&Token::new("t")).await.is_ok());
    assert!(standalone.agent(AgentId(2)).await.is_none());

    fs::remove_file(fixture.file()).unwrap();

    let error = standalone.reload_if_changed(Timestamp::now()).unwrap_err();
    assert!(matches!(error, StandaloneError::Missing(_)), "{error}");
    assert!(standalone.agent_by_token(&Token::new("t")).await.is_ok());

    fixture.write(&good);

    assert!(standalone.reload_if_changed(Timestamp::now()).unwrap());
}

#[test]
fn the_revision_counts_when_a_token_ends() {
    let entry = token_entry("t").replace('}', ", expires_at: 2099-01-01T00:00:00Z}");
    let fixture = Fixture::new(&format!(
        "agents:\n- {{id: 1, name: one, tokens: [{entry}]}}\n"
    ));
    let standalone = fixture.open();
    let end: Timestamp = "2099-01-01T00:00:00Z".parse().unwrap();
    let look = |time| {
        assert!(!standalone.reload_if_changed(time).unwrap());
        *standalone.revision().borrow()
    };

    let before = look(end - 1.second());
    let at = look(end);
    let after = look(end + 1.second());

    assert_eq!((at, after), (before + 1, before + 1));
}

#[tokio::test(start_paused = true)]
async fn the_file_is_followed_until_the_end() {
    let fixture = Fixture::new(&format!("agents:\n{}", agent(1, "one", "t", "{}")));
    let standalone = Arc::new(fixture.open());
    let mut revision = standalone.revision();
    revision.mark_unchanged();
    let stop = CancellationToken::new();
    let following = tokio::spawn(standalone.clone().follow(stop.clone()));

    fixture.write(&format!("agents:\n{}", agent(1, "one", "u", "{}")));
    tokio::time::timeout(Duration::from_secs(60), revision.changed())
        .await
        .unwrap()
        .unwrap();

    assert!(standalone.agent_by_token(&Token::new("u")).await.is_ok());
    stop.cancel();
    following.await.unwrap();
}

#[test]
fn a_missing_file_says_how_to_make_one() {
    let error = Standalone::open("/nonexistent/agents.yaml").unwrap_err();

    assert!(error.to_string().contains("kas agent create"), "{error}");
}

#[test]
fn mistakes_across_entries_have_a_place() {
    let t = token_entry("t");
    let user =
        |name: &str, token: &str| format!("{{name: {name}, tokens: [{}]}}", token_entry(token));
    let mut wrong = Vec::new();
    for (text, start, part) in [
        ("agents:\n- {id: 0, name: a}".to_owned(), "2:3", "must be above 0"),
        ("agents:\n- {id: 1, name: a}\n- {id: 1, name: b}".to_owned(), "3:3", "id 1 is already used in line 2"),
        ("agents:\n- {id: 1, name: a}\n- {id: 2, name: a}".to_owned(), "3:3", "name a is already used in line 2"),
        ("agents:\n- {id: 1, name: A_b}".to_owned(), "2:17", "not a name for an agent"),
        ("agents:\n- {id: 1, name: a, tokens: [secret]}".to_owned(), "2:29", ""),
        ("agents:\n- {id: 1, name: a, tokens: [{hash: glagent-x, created_at: 2026-01-01T00:00:00Z}]}".to_owned(), "2:36", "hash: a token is kept as sha256:"),
        ("agents:\n- {id: 1, name: a, config: {gitopz: {}}}".to_owned(), "2:29", "did you mean `gitops`"),
        (format!("agents:\n- {{id: 1, name: a, tokens: [{}, {}, {}]}}", token_entry("1"), token_entry("2"), token_entry("3")), "2:3", "3 live tokens, at most 2"),
        (format!("users:\n- {}\n- {}", user("a", "1"), user("a", "2")), "3:3", "user name a is already used in line 2"),
        (format!("agents:\n- {{id: 1, name: a, tokens: [{t}]}}\nusers:\n- {{name: u, tokens: [{t}]}}"), "4:3", "same as one of line 2"),
        ("access:\n- {agents: [demo], groups: [g], access_as: agent}".to_owned(), "2:3", "agent demo, which does not exist"),
        (format!("users: [{}]\naccess:\n- {{agents: '*', users: [alise], access_as: user}}", user("alice", "1")), "3:3", "did you mean alice?"),
        ("access:\n- {agents: '*', access_as: agent}".to_owned(), "2:3", "for nobody"),
        ("access:\n- {agents: [], groups: [g], access_as: agent}".to_owned(), "2:", "at least one agent"),
        ("access:\n- {agents: all, groups: [g], access_as: agent}".to_owned(), "2:4", "'*' or a list"),
        ("access:\n- {agents: '*', groups: [g], access_as: admin}".to_owned(), "2:41", "unknown value `admin`"),
        ("access:\n- {agents: '*', groups: [g], access_as: {impersonate: {username: ''}}}".to_owned(), "2:3", "username that is not empty"),
        (format!("services: [{}]\naccess:\n- {{agents: '*', services: [s], access_as: user}}", user("s", "1")), "3:3", "use ci_job"),
    ] {
        let mistake = parse(Path::new("f"), &text, Timestamp::UNIX_EPOCH).expect_err(&text).to_string();
        if !mistake.starts_with(&format!("f:{start}")) || !mistake.contains(part) {
            wrong.push(format!("{text}\n=> {mistake}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn expired_tokens_do_not_count_as_live() {
    let over = |token: &str| token_entry(token).replace('}', ", expires_at: 2026-02-01T00:00:00Z}");
    let text = format!(
        "agents:\n- {{id: 1, name: a, tokens: [{}, {}, {}]}}",
        token_entry("1"),
        over("2"),
        token_entry("3")
    );
    let parse_at = |time: &str| parse(Path::new("f"), &text, time.parse().unwrap());

    assert!(parse_at("2026-01-15T00:00:00Z").is_err());
    assert!(parse_at("2026-02-15T00:00:00Z").is_ok());
}

#[test]
fn an_empty_file_is_an_empty_control_plane() {
    for text in ["", "agents:\nusers:\n", "agents: []\n"] {
        assert!(
            parse(Path::new("f"), text, Timestamp::UNIX_EPOCH).is_ok(),
            "{text:?}"
        );
    }
}

#[tokio::test]
async fn a_token_that_was_just_made_is_good_before_the_file_is_looked_at() {
    let fixture = Fixture::new("agents: []");
    let standalone = fixture.open();
    let token = TokenKind::Agent.generate().unwrap();
    let entry = TokenEntry::new(&token, Timestamp::now());

    edit(standalone.file(), |document| {
        document.create_agent("new", None, entry)
    })
    .unwrap();

    assert_eq!(standalone.agent_by_token(&token).await.unwrap().name, "new");
}

#[tokio::test]
async fn an_empty_file_is_refused_and_the_last_state_stays() {
    let fixture = Fixture::new("agents: []");
    let standalone = fixture.open();
    std::fs::write(standalone.file(), "\n").unwrap();

    let refused = standalone.reload_if_changed(Timestamp::now()).unwrap_err();

    assert!(refused.to_string().contains("is empty"), "{refused}");
}

#[test]
fn an_agent_that_is_dialled_needs_a_url_and_one_way_to_prove_who_kas_is() {
    let (jwt, mtls) = (
        "jwt: {private_key_file: /k}",
        "mtls: {certificate_file: /c, key_file: /k}",
    );
    let read = |section: &str| {
        let text = format!("agents: [{{id: 1, name: edge, receptive: {{{section}}}}}]");
        parse(Path::new("agents.yaml"), &text, Timestamp::now())
    };

    for good in [
        format!("url: 'ws://a', {jwt}"),
        format!("url: 'wss://a', ca_certificate_file: /ca, {mtls}"),
    ] {
        assert_eq!(read(&good).unwrap().receptive()[0].id, AgentId(1), "{good}");
    }
    for (wrong, why) in [
        (format!("url: 'https://a', {jwt}"), "must begin with"),
        ("url: 'ws://a'".to_owned(), "needs jwt or mtls"),
        (format!("url: 'wss://a', {jwt}, {mtls}"), "both"),
        (format!("url: 'ws://a', {mtls}"), "grpcs://"),
        (
            format!("url: 'ws://a', ca_certificate_file: /ca, {jwt}"),
            "ca_certificate_file",
        ),
        (format!("uri: 'ws://a', {jwt}"), "uri"),
    ] {
        let error = read(&wrong).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
