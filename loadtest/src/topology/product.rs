//! Whose kas it is, and the configuration file written for it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    control::ControlPlane,
    ports::loopback,
    replica::{Ports, Setup},
};

/// So many that no limit is met before the server is.
const PLENTY: u32 = 1_000_000;

/// A server that speaks the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Product {
    /// This project's.
    #[default]
    Kas,
    /// GitLab's, of 16.5 or later.
    GoKas,
}

impl Product {
    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kas => "kas",
            Self::GoKas => "go-kas",
        }
    }

    /// Whether it cannot be run without a Redis.
    pub(crate) fn needs_redis(self) -> bool {
        self == Self::GoKas
    }

    /// The configuration file of one replica; YAML, of which JSON is a part.
    pub(super) fn configuration(self, setup: &Setup, control: &ControlPlane, at: Ports) -> Value {
        let mut agents = json!({
            "address": loopback(at.agents),
            "websocket": setup.websocket,
            "connections_per_token_per_minute": PLENTY,
            "listen_grace_period": "1s",
        });
        if setup.tls {
            agents["certificate_file"] = json!(control.certificate);
            agents["key_file"] = json!(control.key);
        }
        let mut configuration = json!({
            "agent": {
                "listen": agents,
                "kubernetes_api": {
                    "listen": {
                        "address": loopback(at.users),
                        "listen_grace_period": "1s",
                        "shutdown_grace_period": "30s",
                    },
                    "url_path_prefix": "/k8s-proxy/",
                },
            },
            "observability": {
                "listen": { "address": loopback(at.observability) },
                "logging": { "level": if self == Self::GoKas { "error" } else { "warn" } },
            },
        });
        if setup.https {
            let users = &mut configuration["agent"]["kubernetes_api"]["listen"];
            users["certificate_file"] = json!(control.certificate);
            users["key_file"] = json!(control.key);
        }
        match setup.gitlab {
            None => configuration["standalone"] = json!({ "file": control.agents }),
            Some(port) => {
                configuration["gitlab"] = json!({
                    "address": format!("http://{}", loopback(port)),
                    "authentication_secret_file": control.secret,
                    "api_rate_limit": { "refill_rate_per_second": PLENTY, "bucket_size": PLENTY },
                });
            }
        }
        if let Some(redis) = setup.redis {
            configuration["redis"] = json!({ "server": { "address": loopback(redis) } });
            configuration["private_api"] = json!({ "listen": {
                "address": loopback(at.peers),
                "authentication_secret_file": control.secret,
            } });
        }
        if self == Self::GoKas {
            configuration["api"] = json!({ "listen": {
                "address": loopback(at.api),
                "authentication_secret_file": control.secret,
            } });
        }
        configuration
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_product_gets_its_own_control_plane() {
        let dir = tempfile::tempdir().unwrap();
        let control = ControlPlane::write(dir.path(), 1).unwrap();
        let at = Ports {
            agents: 1,
            users: 2,
            observability: 3,
            peers: 4,
            api: 5,
        };
        let setup = |gitlab| Setup {
            gitlab,
            redis: Some(6),
            ..Setup::new("kas".into())
        };

        let ours = Product::Kas.configuration(&setup(None), &control, at);
        let go = Product::GoKas.configuration(&setup(Some(7)), &control, at);

        assert!(ours["standalone"].is_object() && ours.get("gitlab").is_none());
        assert_eq!(go["gitlab"]["address"], "http://127.0.0.1:7");
        assert_eq!(go["private_api"]["listen"]["address"], "127.0.0.1:4");
        assert!(go.get("standalone").is_none() && go["api"].is_object());
    }
}
