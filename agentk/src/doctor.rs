//! `agentk doctor`: the way to kas, the token, and the rights in the cluster. Nothing is changed.

mod cluster;

use std::{ffi::OsString, path::Path, time::Duration};

use runtime::{
    connect::ConnectOptions,
    doctor::{AgentPath, Fault, Finding, Report},
    telemetry::Causes,
};

use crate::{
    config::{Config, Link},
    session,
    token::TokenReader,
    version,
};

/// Looks at everything that an agent of this configuration needs. `idle_limit` is how long it is silent on a
/// connection.
pub async fn examine(config: &Config, idle_limit: Duration) -> Report {
    let mut report = Report::default();
    let token = match TokenReader::open(config.token.clone()).await {
        Ok(token) => Some(token.bearer()),
        Err(error) => {
            let seen = Causes(&error).to_string();
            report.add("agentk", "token", Finding::failed(Fault::File, seen));
            None
        }
    };
    match &config.link {
        Link::Dial(target) => {
            let (headers, metadata) = session::headers(target, config);
            let options = ConnectOptions {
                headers,
                user_agent: version::user_agent(),
                proxy: config.kas_proxy.clone(),
                ..ConnectOptions::default()
            };
            let path = AgentPath::new(target.clone(), options, config.kas_tls.clone(), metadata)
                .with_idle_limit(idle_limit);
            let path = match token {
                Some(token) => path.with_token(token),
                None => path,
            };
            path.examine(&mut report).await;
        }
        Link::Receive(_) => {
            let why =
                "kas dials this agent: its log, and kas receptive_agent metrics, say how that goes";
            report.add("kas", "way to kas", Finding::not_checked(why));
        }
    }
    cluster::examine(config, &mut report).await;
    report
}

/// `agentk doctor` without an address is about the agent in whose container it runs: its flags come first.
#[must_use]
pub fn with_flags_of_the_agent(line: Vec<OsString>) -> Vec<OsString> {
    // Whoever may not read it, or has no such file, gives the flags.
    let process = std::fs::read("/proc/1/cmdline").unwrap_or_default();
    merged(line, &process)
}

fn merged(line: Vec<OsString>, process: &[u8]) -> Vec<OsString> {
    let names_link = |it: &OsString| {
        let flag = it.to_string_lossy();
        flag.starts_with("--kas-address") || flag.starts_with("--api-listen") || flag == "--help"
    };
    if line.get(1).is_none_or(|it| it != "doctor") || line.iter().any(names_link) {
        return line;
    }
    let text = String::from_utf8_lossy(process);
    let mut agent = text.trim_end_matches('\0').split('\0');
    let program = agent.next().unwrap_or_default();
    if Path::new(program)
        .file_name()
        .is_none_or(|it| it != "agentk")
    {
        return line;
    }
    let flags: Vec<_> = agent.map(OsString::from).collect();
    let (command, own) = line.split_at(2);
    [command, &flags, own].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(texts: &[&str]) -> Vec<OsString> {
        texts.iter().map(OsString::from).collect()
    }

    #[test]
    fn in_the_agents_container_its_flags_count_and_ones_own_win() {
        let agent = b"/usr/bin/agentk\0--kas-address=wss://kas\0--token-file=/t\0";

        let merged = merged(line(&["agentk", "doctor", "--token-file=/u"]), agent);

        let expected = [
            "agentk",
            "doctor",
            "--kas-address=wss://kas",
            "--token-file=/t",
            "--token-file=/u",
        ];
        assert_eq!(merged, line(&expected));
    }

    #[test]
    fn elsewhere_and_for_others_the_line_stays_as_it_is() {
        let agent = b"/usr/bin/agentk\0--kas-address=wss://kas\0";
        for (texts, process) in [
            (&["agentk", "doctor"][..], &b"/sbin/init\0splash\0"[..]),
            (&["agentk", "--token-file=/t"], agent),
            (&["agentk", "doctor", "--kas-address", "ws://a"], agent),
        ] {
            assert_eq!(merged(line(texts), process), line(texts));
        }
    }
}
