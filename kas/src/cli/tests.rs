//! Commands as they are typed, and what they print.

use std::path::Path;

use clap::CommandFactory;
use control_plane::standalone::Standalone;
use futures_util::FutureExt as _;
use tempfile::TempDir;

use super::*;

struct Shell {
    directory: TempDir,
}

struct Printed {
    results: String,
    hints: String,
}

impl Shell {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("kas-data/agents.yaml")
    }

    fn run(&self, line: &str) -> Result<Printed, CommandError> {
        let words = line.split(' ').map(str::to_owned);
        let file = self.file().display().to_string();
        let words = ["kas".to_owned()]
            .into_iter()
            .chain(words)
            .chain(["--file".to_owned(), file]);
        let cli = Cli::try_parse_from(words).unwrap();
        let Some(Command::File(command)) = cli.command else {
            panic!("not a command on the file: {line}");
        };
        let (mut results, mut hints) = (Vec::new(), Vec::new());
        let mut output = Output::new(&mut results, &mut hints);
        let run = command.run(&mut output).now_or_never();
        run.expect("what is about the file only does not wait")?;
        Ok(Printed {
            results: String::from_utf8(results).unwrap(),
            hints: String::from_utf8(hints).unwrap(),
        })
    }

    fn ok(&self, line: &str) -> Printed {
        self.run(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn error(&self, line: &str) -> String {
        match self.run(line) {
            Ok(printed) => panic!("{line}: {}", printed.results),
            Err(error) => error.to_string(),
        }
    }

    fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.ok(line).results).unwrap()
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn the_servers_flag_and_the_options_of_up_are_read() {
    let cli = Cli::try_parse_from(["kas", "--configuration-file", "f"]).unwrap();
    assert_eq!(cli.configuration_file.as_deref(), Some(Path::new("f")));

    let words = "kas up --replicas 2 --drop-every 5s --data-dir d --api-port 0";
    let cli = Cli::try_parse_from(words.split(' ')).unwrap();
    let Some(Command::Up(up)) = cli.command else {
        panic!("not up")
    };
    assert_eq!((up.replicas, up.api_port, up.agent_port), (2, 0, 8150));
    assert_eq!(up.drop_every, Some(std::time::Duration::from_secs(5)));
    assert!(Cli::try_parse_from(["kas", "up", "--replicas", "0"]).is_err());
    assert!(Cli::try_parse_from(["kas", "up", "--drop-every", "0s"]).is_err());
}

#[test]
fn creating_an_agent_prints_only_its_token() {
    let shell = Shell::new();

    let printed = shell.ok("agent create demo");

    let token = printed.results.trim_end();
    assert!(
        token.starts_with("glagent-") && token.len() == 58,
        "{token}"
    );
    assert!(printed.hints.contains("id 1") && !printed.hints.contains(token));
    assert!(
        !std::fs::read_to_string(shell.file())
            .unwrap()
            .contains(token)
    );
}

#[tokio::test]
async fn a_token_works_until_it_is_rotated_out_or_revoked() {
    use control_plane::ControlPlane;
    let shell = Shell::new();
    let works = async |token: &str| {
        let standalone = Standalone::open(shell.file()).unwrap();
        standalone
            .agent_by_token(&Token::new(token.trim_end()))
            .await
            .is_ok()
    };
    let first = shell.ok("agent create demo").results;
    let second = shell.ok("agent rotate-token demo --grace 1h").results;
    assert!(works(&first).await && works(&second).await);

    let third = shell.ok("agent rotate-token demo --grace 0").results;

    assert!(!works(&first).await && !works(&second).await && works(&third).await);
    assert!(shell.ok("agent revoke demo").hints.contains("1 token(s)"));
    assert!(!works(&third).await);
}

#[test]
fn lists_are_tables_or_json() {
    let shell = Shell::new();
    assert_eq!(shell.ok("agent list").results, "");
    assert_eq!(shell.json("agent list -o json"), serde_json::json!([]));
    shell.ok("agent create demo");
    shell.ok("agent create prod --id 7");
    shell.ok("agent revoke prod");
    shell.ok("user create alice --group admins --group devs");
    shell.ok("service create ci");

    assert_eq!(
        shell.ok("agent list").results,
        "ID   NAME   TOKENS                               DIALLED AT\n1    demo   1 live\n7    prod   none: create one with rotate-token\n"
    );
    assert_eq!(
        shell.ok("user list").results,
        "NAME    GROUPS        TOKENS\nalice   admins,devs   1 live\n"
    );
    let agents = shell.json("agent list -o json");
    assert_eq!(
        (&agents[1]["id"], &agents[1]["name"]),
        (&7.into(), &"prod".into())
    );
    assert_eq!(agents[0]["tokens"][0]["live"], true);
    assert_eq!(shell.json("service list -o json")[0]["name"], "ci");
    let shown = shell.ok("agent show demo").results;
    assert!(
        shown.contains("name:     demo") && shown.contains("never"),
        "{shown}"
    );
    assert_eq!(shell.json("agent show demo -o json")["id"], 1);
    assert!(!shell.ok("agent list -o json").results.contains("sha256"));
}

#[test]
fn rules_are_granted_listed_and_removed() {
    let shell = Shell::new();
    shell.ok("agent create demo");
    shell.ok("user create alice");
    shell.ok("service create ci");

    shell.ok("access grant --agent demo --user alice --group admins --as user");
    shell.ok("access grant --agent * --service ci --as ci_job");
    shell.ok("access grant --agent demo --service ci --as impersonate --as-user jane --as-group g --as-extra k=1 --as-extra k=2");

    assert_eq!(
        shell.ok("access list").results,
        "NO   PATH        AGENTS   WHO                        AS\n\
         1    access[0]   demo     user alice, group admins   user\n\
         2    access[1]   *        service ci                 ci_job\n\
         3    access[2]   demo     service ci                 jane (g)\n"
    );
    let json = shell.json("access list -o json");
    assert_eq!(
        (&json[1]["number"], &json[1]["agents"]),
        (&2.into(), &"*".into())
    );
    assert_eq!(json[1]["path"], "access[1]");
    let extra = &json[2]["access_as"]["impersonate"]["extra"][0];
    assert_eq!(extra["val"], serde_json::json!(["1", "2"]));
    assert!(
        shell
            .ok("access remove access[0]")
            .hints
            .contains("user alice, group admins may use demo as user")
    );
    assert_eq!(
        shell.json("access list -o json").as_array().unwrap().len(),
        2
    );
}

#[test]
fn a_check_says_which_rule_decides_and_why_others_do_not() {
    let shell = Shell::new();
    shell.ok("agent create demo");
    shell.ok("agent create prod");
    shell.ok("agent label prod env=prod tier=1");
    shell.ok("user create alice --group devs");
    shell.ok("user create bob");
    shell.ok("access grant --agent demo --user bob --as agent");
    shell.ok("access grant --agent-label env=prod --group devs --as user --for 2h");
    shell.ok("access grant --agent * --group ops --as agent");

    let allowed = shell.ok("access check --user alice --agent prod --verb get");
    assert!(
        allowed.results.contains("for other agents") && allowed.results.contains("decides"),
        "{}",
        allowed.results
    );
    for part in [
        "Allowed: user:alice, in the groups devs, may use agent prod, by rule 2 (access[1])",
        "kubectl auth can-i get pods --as 'gitlab:user:alice' --as-group 'gitlab:user'",
    ] {
        assert!(allowed.hints.contains(part), "{}", allowed.hints);
    }
    let refused = shell.ok("access check --user alice --agent demo").hints;
    assert!(refused.contains("Refused: user:alice"), "{refused}");
    let by_token = shell.json("access check --user eve --group ops --agent demo -o json");
    assert_eq!(
        (&by_token["allowed"], &by_token["rule"]),
        (&true.into(), &3.into())
    );

    shell.ok("agent label prod --remove env");
    let moved = shell.json("access check --user alice --agent prod -o json");
    assert_eq!(moved["allowed"], false);
}

#[test]
fn a_rule_without_effect_is_told_when_it_is_made_and_when_rules_are_listed() {
    let shell = Shell::new();
    shell.ok("agent create demo");
    shell.ok("user create alice");
    shell.ok("access grant --agent * --user alice --as agent");

    let made = shell.ok("access grant --agent demo --user alice --as user");

    let told = "has no effect: rule 1 (access[0]) decides for all that it names";
    assert!(made.hints.contains(told), "{}", made.hints);
    let listed = shell.ok("access list").hints;
    assert!(
        listed.contains(&format!("Rule 2 (access[1]) {told}")),
        "{listed}"
    );
}

#[test]
fn a_token_can_have_an_end_from_the_beginning() {
    let shell = Shell::new();
    shell.ok("user create alice --expires-in 1h");
    shell.ok("user rotate-token alice --expires-in 2h --grace 0");

    let tokens = &shell.json("user list -o json")[0]["tokens"];

    assert!(tokens[0]["expires_at"].is_string(), "{tokens}");
    let schema = shell.json("access schema");
    assert!(schema["properties"]["issuers"].is_object());
}

#[test]
fn errors_name_what_is_wrong_and_what_to_do() {
    let shell = Shell::new();
    shell.ok("agent create demo");
    shell.ok("user create alice");
    for (line, part) in [
        ("agent create demo", "agent demo exists already"),
        ("agent create Demo", "`Demo` is not a name for an agent"),
        ("agent create new --id 1", "--id"),
        (
            "agent show dmo",
            "there is no agent dmo, did you mean demo?",
        ),
        ("user revoke bob", "there is no user bob: `kas user list`"),
        ("user create @b", "`@b` is not a name"),
        (
            "access grant --agent demo --as agent",
            "--user, --group or --service",
        ),
        (
            "access grant --agent demo --user alise --as user",
            "did you mean alice?",
        ),
        (
            "access grant --agent demo --user alice --as ci_job",
            "use --as user",
        ),
        (
            "access grant --agent demo --user alice --as impersonate",
            "--as-user",
        ),
        (
            "access grant --agent demo --user alice --as user --as-user x",
            "need --as impersonate",
        ),
        (
            "access grant --agent demo --user alice --as impersonate --as-user x --as-extra k",
            "KEY=VALUE",
        ),
        ("access remove 3", "there is no access rule 3"),
    ] {
        let error = shell.error(line);
        assert!(error.contains(part), "{line}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_kubeconfig_names_agent_server_and_bearer() {
    let shell = Shell::new();
    shell.ok("agent create other");
    shell.ok("agent create demo");
    let user = shell.ok("user create alice").results;
    let service = shell.ok("service create ci").results;
    let server = "https://kas.example.com/k8s-proxy/";
    let line = |token: &str, rest: &str| {
        format!(
            "kubeconfig demo --server {server} --token {}{rest}",
            token.trim_end()
        )
    };

    let printed = shell.ok(&line(&user, " --user alice"));

    let config: serde_json::Value = serde_saphyr::from_str(&printed.results).unwrap();
    assert_eq!(config["current-context"], "demo");
    assert_eq!(config["contexts"][0]["name"], "demo");
    assert_eq!(config["clusters"][0]["cluster"]["server"], server);
    let bearer = config["users"][0]["user"]["token"].as_str().unwrap();
    assert_eq!(bearer, format!("pat:2:{}", user.trim_end()));
    assert!(
        printed.hints.contains("no access rule allows it"),
        "{}",
        printed.hints
    );
    shell.ok("access grant --agent demo --service ci --as ci_job");
    let printed = shell.ok(&line(&service, ""));
    assert!(
        printed
            .results
            .contains(&format!("ci:2:{}", service.trim_end()))
    );
    assert_eq!(printed.hints, "");
    assert!(
        shell
            .error(&line(&service, " --user alice"))
            .contains("belongs to the service ci")
    );
    assert!(
        shell
            .error(&line("nonsense", ""))
            .contains("belongs to no user or service")
    );
    assert!(
        shell
            .error("kubeconfig dem --server http://h --token t")
            .contains("did you mean demo?")
    );
    assert!(
        shell
            .error("kubeconfig demo --server h:1 --token t")
            .contains("--server `h:1` must be a URL")
    );
}

#[test]
fn a_kubeconfig_without_a_file_says_how_to_make_one() {
    let error = Shell::new().error("kubeconfig demo --server http://h --token t");

    assert!(
        error.contains("agents.yaml does not exist: create it with `kas agent create"),
        "{error}"
    );
}

#[test]
fn tokens_are_not_in_the_debug_form_of_a_command() {
    let words = "kas kubeconfig demo --server http://h --token secret";
    let cli = Cli::try_parse_from(words.split(' ')).unwrap();

    assert!(!format!("{cli:?}").contains("secret"));
}

#[test]
fn an_agent_that_is_dialled_gets_keys_which_stay_when_the_file_is_left_as_it_was() {
    let shell = Shell::new();
    let beside = |name: &str| shell.file().with_file_name(name);

    let created = shell.ok("agent create edge --receptive grpcs://edge:8182");

    let public = std::fs::read_to_string(beside("edge-receptive.pub")).unwrap();
    assert!(created.hints.contains(public.trim()));
    let private = beside("edge-receptive.key");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&private).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        shell.json("agent list -o json")[0]["dialled_at"],
        "grpcs://edge:8182"
    );
    let kept = std::fs::read(&private).unwrap();
    shell.error("agent create edge --receptive grpcs://elsewhere");
    assert_eq!(std::fs::read(&private).unwrap(), kept);

    let error = shell.error("agent create other --receptive https://other");
    assert!(error.contains("grpcs://"), "{error}");
    assert!(!beside("other-receptive.key").exists());
}

#[test]
fn a_join_token_is_shown_once_with_whole_commands_and_kept_as_a_hash() {
    let shell = Shell::new();

    let added = shell.ok("cluster add edge --kas-address wss://kas.example.com --for 90m");

    let token = added.results.trim();
    assert!(token.starts_with("kasjoin-"), "{token}");
    let mut lines = added.hints.lines();
    let mut line = |word: &str| lines.find(|it| it.contains(word)).unwrap().to_owned();
    let helm = line("helm install edge ");
    assert!(
        helm.contains(&format!(
            "config.kasAddress=wss://kas.example.com,config.joinToken={token}"
        )),
        "{helm}"
    );
    let agentk = line(" agentk ");
    assert!(
        agentk.contains(token) && agentk.contains("--token-file="),
        "{agentk}"
    );
    let kept = std::fs::read_to_string(shell.file()).unwrap();
    assert!(
        kept.contains("join_tokens") && !kept.contains(token),
        "{kept}"
    );
    let agent = shell.json("agent show edge -o json");
    assert_eq!(agent["tokens"].as_array().unwrap().len(), 0);
    assert_eq!(agent["join_tokens"][0]["state"], "good");
    Standalone::open(shell.file()).unwrap();

    let next = shell.ok("agent join-token edge");
    assert!(next.hints.contains("earlier join token"), "{}", next.hints);
    let revoked = shell.ok("agent join-token edge --revoke");
    assert!(revoked.hints.starts_with("Revoked 1 "), "{}", revoked.hints);
    assert!(
        shell
            .error("agent join-token other")
            .contains("no agent other")
    );
    assert!(
        shell
            .error("agent join-token edge --for 169h")
            .contains("168h")
    );
}
