//! Changing the file: round trips, refusals, two writers.

use std::{fs, time::Duration};

use cluster_state::AgentId;
use jiff::Timestamp;

use super::super::{change::*, file::*, names::AgentName, tokens::*, *};
use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn token(text: &str) -> TokenEntry {
    TokenEntry::new(&Token::new(text), Timestamp::now())
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().mode() & 0o777
}

#[test]
fn what_is_written_is_read_back_by_the_server() {
    let directory = directory();
    let file = &directory.path().join("kas-data/agents.yaml");

    edit(file, |document| {
        assert_eq!(document.create_agent("demo", None, token("a"))?, 1);
        assert_eq!(document.create_agent("prod", Some(9), token("b"))?, 9);
        assert_eq!(document.create_agent("next", None, token("c"))?, 10);
        document.create_caller(CallerKind::User, "alice", &["admins".into()], token("d"))?;
        document.create_caller(CallerKind::Service, "ci", &[], token("e"))?;
        document.grant(Rule {
            agents: Agents::All,
            users: names(&["alice".into()])?,
            services: Vec::new(),
            groups: Vec::new(),
            access_as: access_as::AccessAs::User,
            expires_at: None,
            record: crate::RecordSessions::No,
        })
    })
    .unwrap();

    assert_eq!(mode(file), 0o600);
    assert!(
        fs::read_to_string(file)
            .unwrap()
            .starts_with("# yaml-language-server: $schema=agents.schema.json\n# The control plane")
    );
    let opened = Standalone::open(file).unwrap();
    let read = opened.directory.load();
    let found = read.agent_by_token(&Token::new("b").hash(), Timestamp::now());
    assert_eq!(found.unwrap().id, AgentId(9));
    let user = Credentials::Pat {
        token: Token::new("d"),
    };
    assert!(opened.authorize_now(&user, AgentId(10)).is_ok());
}

#[test]
fn configurations_and_owner_rights_survive_a_change() {
    let directory = directory();
    let file = &directory.path().join("agents.yaml");
    let config = "{observability: {logging: {level: debug}}, ci_access: {groups: [{id: '007', access_as: {ci_job: {}}}]}}";
    fs::write(
        file,
        format!("agents:\n- {{id: 1, name: demo, config: {config}}}\n"),
    )
    .unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o640)).unwrap();
    let configuration = || {
        let receiver = Standalone::open(file)
            .unwrap()
            .configuration(AgentId(1), "")
            .unwrap();
        receiver.borrow().clone()
    };
    let before = configuration();

    edit(file, |document| {
        document.create_agent("two", None, token("t"))
    })
    .unwrap();

    assert_eq!(configuration(), before);
    assert_eq!(mode(file), 0o640);
}

#[test]
fn a_link_stays_a_link() {
    let directory = directory();
    let (real, link) = (
        directory.path().join("real"),
        directory.path().join("agents.yaml"),
    );
    fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();

    edit(&link, |document| {
        document.create_agent("a", None, token("t"))
    })
    .unwrap();

    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::read_to_string(real).unwrap().contains("name: a"));
}

#[test]
fn a_refused_change_leaves_the_file_alone() {
    let directory = directory();
    let file = &directory.path().join("agents.yaml");
    edit(file, |document| {
        document.create_agent("demo", None, token("t"))
    })
    .unwrap();
    let before = fs::read(file).unwrap();
    let refuse = |change: &dyn Fn(&mut Editable) -> Result<(), ChangeError>, part: &str| {
        let error = edit(file, change).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };

    refuse(
        &|d| d.create_agent("demo", None, token("u")).map(drop),
        "exists already",
    );
    refuse(
        &|d| d.create_agent("Demo", None, token("u")).map(drop),
        "not a name",
    );
    refuse(
        &|d| d.create_agent("two", Some(1), token("u")).map(drop),
        "taken by agent demo",
    );
    refuse(
        &|d| d.create_agent("two", Some(-1), token("u")).map(drop),
        "above 0",
    );
    refuse(
        &|d| d.create_agent("two", None, token("t")).map(drop),
        "would make the file invalid",
    );
    refuse(&|d| d.revoke_agent("dmeo").map(drop), "did you mean demo?");
    refuse(&|d| d.revoke_agent("other").map(drop), "`kas agent list`");
    refuse(&|d| d.remove_rule(1).map(drop), "there is no access rule 1");

    assert_eq!(fs::read(file).unwrap(), before);
}

#[test]
fn a_file_with_a_mistake_is_not_overwritten() {
    let directory = directory();
    let file = &directory.path().join("agents.yaml");
    fs::write(file, "agnets: []\n").unwrap();

    let error = edit(file, |document| {
        document.create_agent("a", None, token("t"))
    })
    .unwrap_err();

    assert!(
        error.to_string().contains("agents.yaml:1:1: unknown key"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(file).unwrap(), "agnets: []\n");
}

#[test]
fn tokens_rotate_and_are_revoked() {
    let directory = directory();
    let file = &directory.path().join("agents.yaml");
    edit(file, |document| {
        document.create_agent("demo", None, token("old"))
    })
    .unwrap();
    let knows = |text: &str| {
        let standalone = Standalone::open(file).unwrap();
        let read = standalone.directory.load();
        read.agent_by_token(&Token::new(text).hash(), Timestamp::now())
            .is_ok()
    };

    let day = Duration::from_secs(86400);
    edit(file, |document| {
        document.rotate_agent("demo", token("new"), day, Timestamp::now())
    })
    .unwrap();

    assert!(knows("old") && knows("new"));
    assert_eq!(
        edit(file, |document| document.revoke_agent("demo")).unwrap(),
        2
    );
    assert!(!knows("old") && !knows("new"));
    assert!(view(file).unwrap().agent("demo").is_ok());
}

#[test]
fn two_writers_lose_nothing() {
    let directory = directory();
    let file = &directory.path().join("agents.yaml");

    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                for round in 0..5 {
                    let name = format!("a{writer}-{round}");
                    edit(file, |document| {
                        document.create_agent(&name, None, token(&name))
                    })
                    .unwrap();
                }
            });
        }
    });

    let document = view(file).unwrap();
    let mut ids: Vec<i64> = document.agents.iter().map(|it| it.value.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_rule_is_written_and_read_in_every_form() {
    let directory = directory();
    let file = &directory.path().join("agents.yaml");
    let whom = access_as::Impersonate {
        username: "jane".into(),
        groups: vec!["g".into()],
        uid: "u".into(),
        extra: vec![access_as::Extra {
            key: "k".into(),
            val: vec!["v".into()],
        }],
    };
    let agents = || Agents::Named(vec![AgentName::try_from("demo".to_owned()).unwrap()]);
    let forms = [
        access_as::AccessAs::Agent,
        access_as::AccessAs::User,
        access_as::AccessAs::CiJob,
        access_as::AccessAs::Impersonate(whom),
    ];
    let rules: Vec<Rule> = forms
        .into_iter()
        .map(|access_as| Rule {
            agents: agents(),
            users: Vec::new(),
            services: Vec::new(),
            groups: names(&["devs".into()]).unwrap(),
            access_as,
            expires_at: None,
            record: crate::RecordSessions::No,
        })
        .collect();

    edit(file, |document| -> Result<(), ChangeError> {
        document.create_agent("demo", None, token("t"))?;
        rules
            .iter()
            .cloned()
            .try_for_each(|rule| document.grant(rule).map(drop))
    })
    .unwrap();

    let read: Vec<Rule> = view(file)
        .unwrap()
        .access
        .into_iter()
        .map(|it| it.value)
        .collect();
    assert_eq!(read, rules);
    let removed = edit(file, |document| document.remove_rule(2)).unwrap();
    assert_eq!(removed, rules[1]);
    assert_eq!(view(file).unwrap().access.len(), 3);
}
