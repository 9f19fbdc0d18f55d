//! The configuration file: defaults, rules, places of mistakes.

use std::time::Duration;

use runtime::yaml;

use super::*;

const MINIMAL: &str = "standalone: {file: agents.yaml}\n";

fn parse_text(text: &str) -> Result<Loaded, YamlError> {
    parse(Path::new("kas.yaml"), text)
}

fn with(text: &str) -> Config {
    parse_text(&format!("{MINIMAL}{text}")).unwrap().config
}

fn notes(text: &str) -> Vec<String> {
    let notes = parse_text(text).unwrap().notes;
    notes.iter().map(ToString::to_string).collect()
}

fn mistake(text: &str) -> String {
    parse_text(text).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_gitlab_but_for_websocket() {
    let config = with("");

    assert_eq!(config.agent.listen.address, "127.0.0.1:8150");
    assert!(config.agent.listen.websocket);
    assert!(!config.agent.listen.proxy_protocol);
    assert_eq!(config.agent.listen.connections_per_token_per_minute, 40_000);
    assert_eq!(config.agent.listen.drain_connections_per_second, 200);
    assert_eq!(
        config.agent.listen.max_connection_age.0,
        Duration::from_secs(7200)
    );
    assert_eq!(
        config.agent.listen.stream_renewal_interval.0,
        agent_gateway::STREAM_RENEWAL_INTERVAL
    );
    assert_eq!(config.agent.info_cache_ttl.0, Duration::from_secs(300));
    assert_eq!(config.agent.kubernetes_api, None);
    assert_eq!(config.observability.listen.address, "127.0.0.1:8151");
    assert_eq!(config.observability.prometheus.url_path, "/metrics");
    assert_eq!(config.observability.logging.level, LogLevel::Info);
    assert_eq!(
        *config.observability.logging.grpc_level.get(),
        LogLevel::Error
    );
    assert_eq!(config.gitaly.global_api_rate_limit.bucket_size, 70);
    assert_eq!(
        (config.redis, config.api, config.private_api),
        (None, None, None)
    );
}

#[test]
fn the_proxy_is_off_when_absent_or_null_and_on_when_empty() {
    assert!(
        with("agent: {kubernetes_api: }")
            .agent
            .kubernetes_api
            .is_none()
    );
    assert!(with("agent:").agent.kubernetes_api.is_none());

    let proxy = with("agent: {kubernetes_api: {}}")
        .agent
        .kubernetes_api
        .unwrap();

    assert_eq!(proxy.listen.address, "0.0.0.0:8154");
    assert_eq!(proxy.url_path_prefix.0, "/");
    assert_eq!(
        proxy.listen.shutdown_grace_period.0,
        Duration::from_secs(3600)
    );
}

#[test]
fn a_path_prefix_gets_its_final_slash() {
    let config = with("agent: {kubernetes_api: {url_path_prefix: /k8s-proxy}}");

    assert_eq!(
        config.agent.kubernetes_api.unwrap().url_path_prefix.0,
        "/k8s-proxy/"
    );
}

#[test]
fn zero_numbers_and_empty_texts_mean_the_default_but_zero_durations_stay() {
    let config = with(
        "agent: {listen: {address: '', connections_per_token_per_minute: 0}, info_cache_ttl: 0s}\n\
         gitaly: {global_api_rate_limit: {refill_rate_per_second: 0, bucket_size: '5'}}",
    );

    assert_eq!(config.agent.listen.address, "127.0.0.1:8150");
    assert_eq!(config.agent.listen.connections_per_token_per_minute, 40_000);
    assert_eq!(config.agent.info_cache_ttl.0, Duration::ZERO);
    assert_eq!(
        config.gitaly.global_api_rate_limit.refill_rate_per_second,
        30.0
    );
    assert_eq!(config.gitaly.global_api_rate_limit.bucket_size, 5);
}

#[test]
fn redis_is_one_server_or_sentinels() {
    let single = with("redis: {server: {address: 'r:6379'}, pool_size: 5, tls: {enabled: true}}");
    let sentinel = with("redis: {sentinel: {master_name: m, addresses: ['s:1']}, network: ''}");

    let redis = single.redis.unwrap();
    let Some(RedisServers::Single(server)) = redis.servers() else {
        panic!("{:?}", redis.servers())
    };
    assert_eq!(server.address.0, "r:6379");
    assert_eq!(redis.key_prefix, "gitlab-kas");
    assert!(redis.tls.enabled);
    assert!(matches!(
        sentinel.redis.unwrap().servers(),
        Some(RedisServers::Sentinel(_))
    ));
}

#[test]
fn a_mixed_set_needs_both_of_its_keys_and_no_cluster() {
    let set = |redis: &str, tokens: &str| {
        let text = format!(
            "standalone: {{file: a}}\nredis: {{{redis}, compatibility: gitlab-16.5}}\nprivate_api: {{listen: \
             {{authentication_secret_file: s{tokens}}}}}"
        );
        parse(Path::new("kas.yaml"), &text)
    };
    let single = "server: {address: 'r:1'}";

    let mixed = set(single, ", gitlab_tokens: true").unwrap().config;
    assert_eq!(
        mixed.redis.unwrap().compatibility,
        RedisCompatibility::GitLab16_5
    );
    let refused = set(single, "").unwrap_err().to_string();
    assert!(
        refused.contains("private_api.listen.gitlab_tokens: true"),
        "{refused}"
    );
    let cluster = "cluster: {addresses: ['r:1']}";
    let refused = set(cluster, ", gitlab_tokens: true").unwrap_err();
    assert!(refused.to_string().contains("cluster"), "{refused}");
}

#[test]
fn the_private_api_is_read_whole() {
    let config = with(
        "private_api: {listen: {address: ':8155', authentication_secret_file: s, \
         certificate_file: c, key_file: k, ca_certificate_file: ca, client_ca_certificate_file: cca, gitlab_tokens: true}}",
    );

    let private = config.private_api.unwrap().listen;
    assert_eq!(private.socket().host_port(), "[::]:8155");
    assert!(private.tls().is_some());
    assert_eq!(
        private.ca_certificate_file.as_deref(),
        Some(Path::new("ca"))
    );
    assert_eq!(
        private.client_ca_certificate_file.as_deref(),
        Some(Path::new("cca"))
    );
    assert!(private.gitlab_tokens);
}

#[test]
fn mistakes_name_file_line_column_and_what_to_do() {
    for (text, start, part) in [
        ("", "kas.yaml:1:1: ", "no control plane is configured"),
        (
            "gitlab: {address: gitlab.example, authentication_secret_file: s}",
            "kas.yaml:1:19: ",
            "must begin with http:// or https://",
        ),
        (
            "standalone: {file: a}\ngitlab: {address: http://g, authentication_secret_file: s}",
            "kas.yaml:2:9: ",
            "both given",
        ),
        (
            "standalone: {file: a}\nagent:\n  listen:\n    max_connection_age: 2h",
            "kas.yaml:4:25: ",
            "max_connection_age: `2h` is not a duration",
        ),
        (
            "standalone: {file: a}\nagent:\n  listen:\n    max_connection_age: 0s",
            "kas.yaml:4:25: ",
            "greater than 0s",
        ),
        (
            "standalone: {file: a}\nagent:\n  listen:\n    certificate_file: c",
            "kas.yaml:4:5: ",
            "key_file is missing",
        ),
        (
            "standalone: {file: a}\nagent: {listen: {network: udp}}",
            "kas.yaml:2:27: ",
            "unknown value `udp`",
        ),
        (
            "standalone: {file: a}\nagent: {listen: {address: '8150'}}",
            "kas.yaml:2:17: ",
            "must be host:port",
        ),
        (
            "standalone: {file: a}\nagent: {listen: {websocket: yes}}",
            "kas.yaml:2:29: ",
            "websocket",
        ),
        (
            "standalone: {file: a}\nagent: {redis_conn_info_refresh: 300s}",
            "kas.yaml:2:34: ",
            "must be smaller",
        ),
        (
            "standalone: {file: a}\nagent: {kubernetes_api: {url_path_prefix: k8s}}",
            "kas.yaml:2:43: ",
            "must start with /",
        ),
        (
            "standalone: {file: a}\nagent: {events: {webhooks: [{url: ftp://a, secret_file: s}]}}",
            "kas.yaml:2:35: ",
            "agent.events.webhooks: url: ",
        ),
        (
            "standalone: {file: a}\nagent: {events: {webhooks: [{url: http://a}]}}",
            "kas.yaml:2:",
            "`secret_file` is missing",
        ),
        (
            "standalone: {file: a}\nredis: {}",
            "kas.yaml:2:8: ",
            "exactly one of",
        ),
        (
            "standalone: {file: a}\nprivate_api: {listen: {}}",
            "kas.yaml:2:23: ",
            "`authentication_secret_file` is missing",
        ),
        (
            "standalone: {file: a}\nprivate_api: {listen: {authentication_secret_file: s, client_ca_certificate_file: c}}",
            "kas.yaml:2:23: ",
            "client_ca_certificate_file needs certificate_file",
        ),
        (
            "standalone: {file: a}\nobservability: {listen: {certificate_file: '', key_file: k}}",
            "kas.yaml:2:",
            "must not be empty",
        ),
        (
            "standalone: {file: a}\nobservability: {tracing: {otlp_endpoint: 'c:1'}}",
            "kas.yaml:2:42: ",
            "http:// or https://",
        ),
        (
            "standalone: {file: a}\nobservability: {logging: {level: loud}}",
            "kas.yaml:2:34: ",
            "unknown value `loud`",
        ),
    ] {
        let message = mistake(text);
        assert!(
            message.starts_with(start) && message.contains(part),
            "{text}\n{message}"
        );
    }
}

#[test]
fn levels_have_names_and_numbers() {
    assert_eq!(
        with("observability: {logging: {level: 1, grpc_level: warn}}")
            .observability
            .logging
            .level,
        LogLevel::Debug
    );
}

#[test]
fn a_printed_configuration_shows_no_secret() {
    let config = with("observability: {sentry: {dsn: 'https://key@sentry/1'}}");

    assert!(!format!("{config:?}").contains("key@"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load(Path::new("/nonexistent/kas.yaml"))
        .unwrap_err()
        .to_string();

    assert!(error.contains("/nonexistent/kas.yaml"), "{error}");
}

#[test]
fn unknown_keys_are_ignored_and_noted_with_path_place_and_the_nearest_key() {
    let text = "standalone: {file: a}\nagnet: {}\nagent:\n  listen:\n    adress: x\n    websocket: false\n";

    assert_eq!(
        notes(text),
        [
            "2:1: agnet is ignored: unknown key `agnet`, did you mean `agent`?",
            "5:5: agent.listen.adress is ignored: unknown key `adress`, did you mean `address`?",
        ]
    );
    assert!(!parse_text(text).unwrap().config.agent.listen.websocket);
}

#[test]
fn known_keys_without_effect_are_noted_with_the_reason() {
    let api = "api: {listen: {authentication_secret_file: s, listen_grace_period: 2s}}";
    let gitlab = "gitlab: {address: http://g, authentication_secret_file: s}";

    let noted = notes(&format!(
        "{gitlab}\n{api}\nagent: {{gitops: {{}}, info_cache_ttl: 1s}}"
    ));

    assert_eq!(
        noted,
        [
            "api.listen.listen_grace_period is ignored: agent.listen.listen_grace_period counts for this listener too",
            "agent.gitops is ignored: manifests are not delivered: GitLab removed gitops in 2025; agents use Flux",
        ]
    );
    let standalone = notes(&format!("{MINIMAL}agent: {{info_cache_ttl: 1s}}"));
    assert!(
        standalone[0].starts_with("agent.info_cache_ttl is ignored: "),
        "{standalone:?}"
    );
}

#[test]
fn what_is_shown_means_the_same_when_it_is_read() {
    for text in [
        "standalone: {file: agents.yaml}",
        "standalone: {file: a}\nagent: {events: {log: true, webhooks: [{url: 'https://h/a', secret_file: s, ca_certificate_file: c}]}}",
        "standalone: {file: a}\nredis: {cluster: {addresses: ['a:1', 'b:2']}}\nprivate_api: {listen: \
         {authentication_secret_file: s, certificate_file: c, key_file: k, client_ca_certificate_file: ca}}",
        include_str!("../../tests/configuration/omnibus.yml"),
        include_str!("../../tests/configuration/chart.yaml"),
    ] {
        let config = parse_text(text).unwrap().config;

        let shown = yaml::write(&config.show());
        let again = parse_text(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));

        assert_eq!(again.config, config, "{shown}");
        assert!(
            again.notes.iter().all(|note| note.place.is_none()),
            "an unknown key in {shown}"
        );
    }
}

#[test]
fn gitlab_has_upstreams_defaults_and_a_grace() {
    let text = "gitlab: {address: 'https://g/gitlab', external_url: 'https://g', authentication_secret_file: s}";
    let gitlab = parse_text(text).unwrap().config.gitlab.unwrap();

    assert_eq!(gitlab.api_rate_limit.refill_rate_per_second, 50.0);
    assert_eq!(gitlab.api_rate_limit.bucket_size, 250);
    assert_eq!(gitlab.external_url.unwrap().0, "https://g");
    assert_eq!(gitlab.outage_grace.agents.0, Duration::from_secs(3600));
    assert_eq!(gitlab.outage_grace.callers.0, Duration::from_secs(600));
}
