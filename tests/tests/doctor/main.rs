//! `agentk doctor` and `kas doctor`: what is broken is named with what mends it, and what is whole is left in peace.

mod agent;
mod server;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

/// What stands between agents, users and kas.
const LOAD_BALANCERS: [&str; 4] = ["nginx", "HAProxy", "Envoy", "ALB"];
/// Faults that no load balancer has or mends.
const BESIDE_THE_WAY: [&str; 14] = [
    "not_yet_valid",
    "clock_off",
    "token_refused",
    "cluster",
    "rights",
    "configuration",
    "file",
    "port_taken",
    "store_password",
    "store_unreachable",
    "peer_unreachable",
    "peer_unknown",
    "gitlab",
    "gitlab_secret",
];

/// What a doctor printed, and whether it was content.
#[derive(Debug)]
struct Examined {
    healthy: bool,
    report: Value,
}

impl Examined {
    /// Lets a doctor work, which prints JSON.
    async fn by(mut command: Command) -> Result<Self> {
        let output = command.kill_on_drop(true).output().await?;
        let text = String::from_utf8_lossy(&output.stdout);
        let report = serde_json::from_str(&text).map_err(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            anyhow::anyhow!("{error}: {text}{said}")
        })?;
        Ok(Self {
            healthy: output.status.success(),
            report,
        })
    }

    fn checks(&self) -> impl Iterator<Item = &Value> {
        self.report["checks"].as_array().into_iter().flatten()
    }

    /// Checks that it fails with this fault, at a hop, with lines that mend it.
    fn names(&self, fault: &str) -> Result<&Value> {
        let found = self.checks().find(|check| check["fault"] == fault);
        let found = found.with_context(|| format!("no {fault} in {:#}", self.report))?;
        let remedies = found["remedies"].as_array().map_or(0, Vec::len);
        ensure!(remedies > 0, "{found}");
        if !BESIDE_THE_WAY.contains(&fault) {
            for at in LOAD_BALANCERS {
                ensure!(is_mended_at(found, at), "no line for {at}: {found}");
            }
        }
        ensure!(
            found["hop"].as_str().is_some_and(|hop| !hop.is_empty()),
            "{found}"
        );
        Ok(found)
    }

    /// The same, and that it does not work.
    fn fails_with(&self, fault: &str) -> Result<&Value> {
        let found = self.names(fault)?;
        ensure!(found["outcome"] == "failed", "{found}");
        ensure!(!self.healthy, "it exits with 0");
        Ok(found)
    }

    /// Checks that nothing was found.
    fn is_content(&self, what: &str) -> Result<()> {
        let findings: Vec<_> = self
            .checks()
            .filter(|it| it.get("fault").is_some())
            .collect();
        ensure!(findings.is_empty() && self.healthy, "{what}: {findings:#?}");
        ensure!(self.checks().count() > 3, "{what}: {:#}", self.report);
        Ok(())
    }
}

/// Whether a remedy of a check is for this program.
fn is_mended_at(check: &Value, program: &str) -> bool {
    let mut remedies = check["remedies"].as_array().into_iter().flatten();
    remedies.any(|it| it["at"] == program)
}
