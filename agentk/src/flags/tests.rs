//! What command lines mean, and which are refused.

use super::*;
use crate::config::Peers;
use runtime::telemetry::Causes;

fn read(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    let line = ["agentk", "--kas-address", "wss://kas.example.com"];
    read_all(&[&line[..], arguments].concat(), variables)
}

fn read_all(line: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    let flags = Flags::try_parse_from(line).map_err(|error| error.to_string())?;
    let variables: Vec<_> = [("POD_NAMESPACE", "ns"), ("POD_NAME", "pod")]
        .iter()
        .chain(variables)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    flags
        .into_config(|name| {
            let found = variables.iter().rev().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        })
        .map_err(|error| Causes(&error).to_string())
}

#[test]
fn the_deployments_arguments_are_understood() {
    let config = read(
        &["--token-file=/config/token", "--kas-header", "X-A: b"],
        &[],
    )
    .unwrap();

    assert_eq!(config.kas_headers["x-a"], "b");
    assert_eq!(config.kas_connections, 2);
    assert_eq!(config.observability.unwrap().address, ":8080");
    assert_eq!(config.pod.unwrap().name, "pod");
}

#[test]
fn exactly_one_token_is_wanted() {
    assert!(read(&[], &[("AGENTK_TOKEN", "t")]).is_ok());
    assert!(read(&[], &[]).unwrap_err().contains("neither is set"));
    let both = read(&["--token-file", "/x"], &[("AGENTK_TOKEN", "")]);
    assert!(both.unwrap_err().contains("both are set"));
}

#[test]
fn a_missing_pod_is_explained() {
    let error = read(&["--token-file", "/x"], &[("POD_NAME", "")]).unwrap_err();

    assert!(
        error.contains("POD_NAME") && error.contains("elsewhere"),
        "{error}"
    );
}

#[test]
fn mistakes_name_their_flag() {
    for (arguments, named) in [
        (&["--kas-header", "broken"][..], "--kas-header"),
        (&["--kas-proxy", "socks5://a"], "--kas-proxy"),
        (
            &["--observability-cert-file", "/x"],
            "--observability-key-file",
        ),
        (&["--observability-listen-network", "unix"], "unix"),
    ] {
        let all = [&["--token-file", "/x"], arguments].concat();

        let error = read(&all, &[]).unwrap_err();

        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn an_agent_that_kas_dials_needs_to_know_how_kas_proves_who_it_is() {
    let read = |arguments: &[&str]| {
        let line = [&["agentk", "--token-file", "/x"][..], arguments].concat();
        read_all(&line, &[])
    };
    let jwt = ["--api-jwt-file", "/j"];
    let tls = ["--api-cert-file", "/c", "--api-key-file", "/k"];
    let ca = ["--api-ca-cert-file", "/a"];
    let kas = ["--kas-address", "ws://kas"];

    let Link::Receive(receptive) = read(&jwt).unwrap().link else {
        panic!("it is to be dialled");
    };
    assert_eq!(receptive.address, ":8082");
    assert!(read(&[&tls[..], &ca].concat()).is_ok());
    let pods = [
        "--private-api-jwt-file",
        "/s",
        "--private-api-peers",
        "pods:8081",
    ];
    let Link::Receive(receptive) = read(&[&jwt[..], &pods].concat()).unwrap().link else {
        panic!("it is to be dialled");
    };
    assert_eq!(receptive.private_api.unwrap().address, ":8081");
    for (arguments, named) in [
        (vec![], "neither"),
        ([&kas[..], &jwt].concat(), "both"),
        (tls.to_vec(), "--api-jwt-file"),
        (ca.to_vec(), "--api-cert-file"),
        ([&jwt[..], &tls[..2]].concat(), "--api-key-file"),
        ([&jwt[..], &pods[..2]].concat(), "--private-api-peers"),
        ([&jwt[..], &pods[2..]].concat(), "--private-api-jwt-file"),
        ([&kas[..], &pods].concat(), "where kas dials the agent"),
    ] {
        let error = read(&arguments).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn pods_are_found_by_labels_where_no_name_is_given() {
    let line = ["agentk", "--token-file=/x", "--api-jwt-file=/k"];
    let secret = ["--private-api-jwt-file=/s"];
    let peers = |more: &[&str], variables: &[(&str, &str)]| {
        let config = read_all(&[&line[..], more].concat(), variables)?;
        let Link::Receive(receptive) = config.link else {
            return Err("it is to be dialled".to_owned());
        };
        Ok(receptive.private_api.map(|it| it.peers))
    };
    let labels = ("POD_SELECTOR_LABELS", "app=agentk");

    assert!(matches!(peers(&[], &[labels]), Ok(None)));
    let url = ("OWN_PRIVATE_API_URL", "grpcs://10.0.0.1:9081");
    let host = ("OWN_PRIVATE_API_HOST", "agentk");
    for (variables, expected) in [(&[labels][..], 8081), (&[labels, url, host][..], 9081)] {
        let found = peers(&secret, variables);
        let Ok(Some(Peers::Labels { selector, port, .. })) = found else {
            panic!("{found:?}");
        };
        assert_eq!((selector.as_str(), port), ("app=agentk", expected));
    }
    let named = [&secret[..], &["--private-api-peers=pods:1"]].concat();
    assert!(matches!(peers(&named, &[labels]), Ok(Some(Peers::Name(_)))));
}

#[test]
fn features_are_off_unless_named() {
    assert!(
        read(&["--token-file", "/x"], &[])
            .unwrap()
            .features
            .is_empty()
    );
    let config = read(&["--token-file", "/x", "--features=events"], &[]).unwrap();
    assert_eq!(config.features, [Feature::Events]);
    assert!(
        read(&["--features", "evnets"], &[])
            .unwrap_err()
            .contains("events")
    );
}

#[test]
fn the_rights_of_features_are_printed() {
    let Ok(CommandLine::Rbac(rbac)) = CommandLine::read(["agentk", "rbac", "--features", "events"])
    else {
        panic!("this asks for rights");
    };
    let yaml = rbac.yaml();
    assert!(yaml.contains("resources: [leases]"), "{yaml}");
    assert!(
        yaml.contains("resources: [events], verbs: [list, watch]"),
        "{yaml}"
    );
    assert!(CommandLine::read(["agentk", "rbac", "--features", "x"]).is_err());
    let run = CommandLine::read(["agentk", "--kas-address", "ws://k"]);
    assert!(matches!(run, Ok(CommandLine::Run(_))));
}

#[test]
fn bounds_of_impersonation_are_printed_and_never_hold_kubernetes_own_names() {
    let read = |flags: &[&str]| {
        let line = [&["agentk", "rbac"], flags].concat();
        CommandLine::read(line).map(|it| match it {
            CommandLine::Rbac(rbac) => rbac.yaml(),
            CommandLine::Run(_) | CommandLine::Doctor(_) => panic!("this asks for rights"),
        })
    };
    let plain = read(&[]).unwrap();
    assert!(!plain.contains("impersonate"), "{plain}");
    let least = read(&["--constrained"]).unwrap();
    for rule in [
        r#"resources: [users], verbs: ["impersonate:user-info"]"#,
        r#"resources: [groups], resourceNames: ["gitlab:user"], verbs: ["impersonate:user-info"]"#,
        r#"{apiGroups: ["*"], resources: ["*"], verbs: ["impersonate-on:user-info:get", "#,
    ] {
        assert!(least.contains(rule), "{least}");
    }
    assert!(!least.contains("user-info:create\", "), "{least}");
    let more = read(&[
        "--constrained",
        "--as-group=gitlab:group_role:9:developer",
        "--as-user=gitlab:user:ana",
        "--on=create:pods/exec,deployments.apps/scale,*.batch",
    ]);
    let more = more.unwrap();
    for rule in [
        r#"resources: [users], resourceNames: ["gitlab:user:ana"],"#,
        r#"resources: [groups], resourceNames: ["gitlab:group_role:9:developer"],"#,
        r#"{apiGroups: [""], resources: ["pods/exec"], verbs: ["impersonate-on:user-info:create"]}"#,
        r#"{apiGroups: ["apps"], resources: ["deployments/scale"],"#,
        r#"{apiGroups: ["batch"], resources: ["*"],"#,
    ] {
        assert!(more.contains(rule), "{more}");
    }
    for bad in [
        "--as-group=system:masters",
        "--as-user=system:serviceaccount:kube-system:root",
        "--as-group=*",
        "--on=*:pods",
        "--on=get:Pods",
        "--on=pods",
    ] {
        assert!(read(&["--constrained", bad]).is_err(), "{bad}");
    }
    assert!(read(&["--as-group=people"]).is_err());
}

#[test]
fn one_connection_is_enough_and_none_is_not() {
    let with = |number| read(&["--token-file", "/x", "--kas-connections", number], &[]);

    assert_eq!(with("1").unwrap().kas_connections, 1);
    assert!(with("0").unwrap_err().contains("from 1 to 8"));
}

#[test]
fn kubectls_flags_are_understood() {
    let config = read(
        &[
            "--token-file",
            "/x",
            "-n",
            "a",
            "-s",
            "https://s",
            "--as",
            "u",
            "--as-group",
            "g",
            "--as-group=h",
            "--insecure-skip-tls-verify",
            "--token",
            "t",
            "--request-timeout",
            "5s",
            "--cache-dir",
            "/c",
            "--disable-compression=true",
        ],
        &[],
    )
    .unwrap();

    let ClusterSource::Options(options) = config.cluster else {
        panic!("flags make options");
    };
    assert_eq!(options.server.as_deref(), Some("https://s"));
    assert_eq!(options.impersonate_groups, ["g", "h"]);
    assert!(options.insecure_skip_tls_verify);
}

#[test]
fn an_agent_that_joins_says_where_its_own_token_is_to_be() {
    let own = ["--token-file", "/own"];
    let flags = [&own[..], &["--join-token-file=/join", "--token-secret=s"]].concat();

    let join = read(&flags, &[]).unwrap().join.unwrap();
    let by_variable = read(&own, &[("AGENTK_JOIN_TOKEN_FILE", "/join")]).unwrap();

    assert_eq!(join.secret.as_deref(), Some("s"));
    for join in [join, by_variable.join.unwrap()] {
        assert_eq!(join.token_file.to_str(), Some("/join"));
        assert_eq!(join.own_token_file.to_str(), Some("/own"));
    }
    assert!(read(&own, &[]).unwrap().join.is_none());
    for (flags, variables, named) in [
        (
            &["--join-token-file=/join"][..],
            &[("AGENTK_TOKEN", "t")][..],
            "--token-file",
        ),
        (
            &["--token-file=/own", "--token-secret=s"],
            &[],
            "--join-token-file",
        ),
    ] {
        let error = read(flags, variables).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
}
