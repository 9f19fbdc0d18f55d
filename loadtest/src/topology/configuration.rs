//! The configuration file that is written for a replica.

use serde_json::{Value, json};

use super::{
    control::ControlPlane,
    product::Product,
    setup::{Ports, Setup},
};
use crate::ports::loopback;

/// So many that no limit is met before the server is.
const UNLIMITED: u32 = 1_000_000;

/// The configuration file of one replica; YAML, of which JSON is a part.
pub(super) fn of_replica(setup: &Setup, control: &ControlPlane, at: Ports) -> Value {
    let is_gitlabs = setup.product == Product::GoKas;
    let mut agents = json!({
        "address": loopback(at.agents),
        "websocket": setup.websocket,
        "connections_per_token_per_minute": UNLIMITED,
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
            "logging": { "level": if is_gitlabs { "error" } else { "warn" } },
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
                "api_rate_limit": { "refill_rate_per_second": UNLIMITED, "bucket_size": UNLIMITED },
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
    if is_gitlabs {
        configuration["api"] = json!({ "listen": {
            "address": loopback(at.api),
            "authentication_secret_file": control.secret,
        } });
    }
    if !is_gitlabs {
        configuration["admin"] = json!({ "listen": { "address": loopback(at.admin) } });
    }
    configuration
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
            admin: 8,
        };
        let setup = |product, gitlab| Setup {
            product,
            gitlab,
            redis: Some(6),
            ..Setup::new("kas".into())
        };

        let ours = of_replica(&setup(Product::Kas, None), &control, at);
        let go = of_replica(&setup(Product::GoKas, Some(7)), &control, at);

        assert!(ours["standalone"].is_object() && ours.get("gitlab").is_none());
        assert_eq!(go["gitlab"]["address"], "http://127.0.0.1:7");
        assert_eq!(go["private_api"]["listen"]["address"], "127.0.0.1:4");
        assert!(go.get("standalone").is_none() && go["api"].is_object());
        assert_eq!(ours["admin"]["listen"]["address"], "127.0.0.1:8");
        assert!(go.get("admin").is_none());
    }
}
