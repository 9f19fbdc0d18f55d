//! Network namespaces: machines of their own behind a bridge, whose links a firewall cuts without a word.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::parts;

/// The address of the hub, where everything is that is no machine.
pub const HUB: &str = "10.213.0.1";

/// Namespaces; they go with it.
#[derive(Debug)]
pub struct Net {
    name: String,
    machines: usize,
}

impl Net {
    /// A hub with so many machines around it.
    ///
    /// # Errors
    /// When this process may not make them.
    pub async fn start(machines: usize) -> Result<Self> {
        let name = format!("kas{}", std::process::id());
        let net = Self { name, machines };
        let hub = net.hub();
        run(&format!("ip netns add {hub}")).await?;
        run(&format!("ip -n {hub} link set lo up")).await?;
        run(&format!("ip -n {hub} link add bridge0 type bridge")).await?;
        run(&format!("ip -n {hub} addr add {HUB}/24 dev bridge0")).await?;
        run(&format!("ip -n {hub} link set bridge0 up")).await?;
        for number in 0..machines {
            let (machine, address) = (net.machine(number), address(number));
            let port = format!("port{number}");
            run(&format!("ip netns add {machine}")).await?;
            run(&format!("ip -n {machine} link set lo up")).await?;
            run(&format!(
                "ip -n {hub} link add {port} type veth peer name eth0 netns {machine}"
            ))
            .await?;
            run(&format!("ip -n {hub} link set {port} master bridge0 up")).await?;
            run(&format!("ip -n {machine} addr add {address}/24 dev eth0")).await?;
            run(&format!("ip -n {machine} link set eth0 up")).await?;
        }
        Ok(net)
    }

    /// The name of the hub.
    #[must_use]
    pub fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    /// The name of a machine.
    #[must_use]
    pub fn machine(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Nothing passes any more between a machine and this address, or this TCP port of it.
    ///
    /// # Errors
    /// When the firewall refuses.
    pub async fn cut(&self, number: usize, address: &str, port: Option<u16>) -> Result<()> {
        let port = |side| port.map_or(String::new(), |port| format!("-p tcp --{side}port {port}"));
        let machine = self.machine(number);
        for rule in [
            format!("INPUT -s {address} {}", port("s")),
            format!("OUTPUT -d {address} {}", port("d")),
        ] {
            run(&format!(
                "ip netns exec {machine} iptables -w -A {rule} -j DROP"
            ))
            .await?;
        }
        Ok(())
    }

    /// Everything passes again.
    ///
    /// # Errors
    /// When the firewall refuses.
    pub async fn heal(&self, number: usize) -> Result<()> {
        let machine = self.machine(number);
        run(&format!("ip netns exec {machine} iptables -w -F")).await
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let machines = (0..self.machines).map(|number| self.machine(number));
        for name in machines.chain([self.hub()]) {
            // It is left behind if it cannot be removed, and the next has another name.
            let _ = std::process::Command::new("ip")
                .args(["netns", "del", &name])
                .status();
        }
    }
}

/// The address of a machine.
#[must_use]
pub fn address(number: usize) -> String {
    format!("10.213.0.{}", 11 + number)
}

/// A command that runs a program in a namespace.
#[must_use]
pub fn command(name: &str, program: &Path) -> Command {
    let mut command = Command::new(ip());
    command.args(["netns", "exec", name]).arg(program);
    command
}

fn ip() -> std::path::PathBuf {
    parts::program("ip").unwrap_or_else(|| "ip".into())
}

async fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("a command")?;
    ensure!(program == "ip", "{line}");
    let output = Command::new(ip()).args(words).output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{line}: {said}");
    Ok(())
}
