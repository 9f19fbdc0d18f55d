//! A real Kubernetes on loopback, with a node that runs containers.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    process::Command,
    sync::{Mutex, MutexGuard},
};

use crate::{kubectl::Kubectl, parts, ports, programs};

/// A pod that counts.
const BOX: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: box
    image: local/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, "i=0; while true; do echo tick $i; i=$((i+1)); sleep 1; done"]
"#;
/// Starting takes some five seconds on an idle machine.
const START: Duration = Duration::from_secs(180);
const STOP: Duration = Duration::from_secs(90);
/// API server, etcd (two), controller manager, scheduler, kubelet, kube-proxy (two).
const PORTS: u16 = 8;

/// A test program has one cluster at a time: its folder is named after the process.
static ONE: Mutex<()> = Mutex::const_new(());

/// How much of a cluster there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing but an API server.
    ApiServer,
    /// A node too.
    Node,
    /// A node whose pods find Services, and which gets images from the registry at this port.
    Services { registry: u16 },
}

impl Kind {
    fn action(self) -> &'static str {
        match self {
            Self::ApiServer => "api",
            Self::Node | Self::Services { .. } => "up",
        }
    }
}

/// A cluster of one node. End it with [`Self::down`].
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    port: u16,
    kind: Kind,
    flags: String,
    _one: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts a cluster, after taking away what killed test runs left, and after another test of the program has ended
    /// its own.
    ///
    /// # Errors
    /// When a part of it does not come up; the error has that part's log.
    pub async fn up() -> Result<Self> {
        Self::begin(Kind::Node, "").await
    }

    /// The same where pods find Services and the API server, which has these flags besides its own. Images come from the
    /// registry at this port. This process must be in a network namespace of its own.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn with_services(flags: &str, registry: u16) -> Result<Self> {
        Self::begin(Kind::Services { registry }, flags).await
    }

    /// The same with nothing but an API server, which has these flags besides its own.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub async fn api_server(flags: &str) -> Result<Self> {
        Self::begin(Kind::ApiServer, flags).await
    }

    async fn begin(kind: Kind, flags: &str) -> Result<Self> {
        let one = ONE.lock().await;
        let clusters = parts::cache().join("run");
        std::fs::create_dir_all(&clusters)?;
        sweep(&clusters).await?;
        let folder = clusters.join(format!("cluster-{}", std::process::id()));
        let cluster = Self {
            folder,
            port: ports::free_block(PORTS),
            kind,
            flags: flags.to_owned(),
            _one: one,
        };
        if let Err(error) = cluster.script(kind.action(), START).await {
            cluster.down().await.ok();
            return Err(error);
        }
        cluster.prepare().await?;
        Ok(cluster)
    }

    /// Does something with a cluster where the pod `box` runs, which says `tick N` each second.
    ///
    /// # Errors
    /// When it does not come up, or what is done fails.
    pub async fn with_box<T>(done: impl AsyncFnOnce(&Self) -> Result<T>) -> Result<T> {
        let cluster = Self::up().await?;
        let done = async {
            let admin = cluster.admin();
            admin.apply(BOX).await?;
            admin
                .ok(&["wait", "--for=condition=Ready", "pod/box", "--timeout=120s"])
                .await?;
            done(&cluster).await
        };
        let done = done.await;
        cluster.down().await?;
        done
    }

    async fn script(&self, what: &str, limit: Duration) -> Result<()> {
        let port = self.port.to_string();
        let mut args: Vec<&Path> = vec![what.as_ref(), &self.folder, port.as_ref()];
        let mut registry = String::new();
        if let Kind::Services { registry: port } = self.kind {
            args.push("services".as_ref());
            registry = format!("127.0.0.1:{port}");
        }
        let variables = [
            ("KAS_TEST_API_SERVER_FLAGS", self.flags.as_str()),
            ("KAS_TEST_REGISTRY", &registry),
        ];
        script(&args, &variables, limit).await
    }

    /// Ends the API server, as an upgrade does: requests in progress may come to their end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop_api_server(&self) -> Result<()> {
        self.script("api-down", STOP).await
    }

    /// Starts it again, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_api_server(&self) -> Result<()> {
        self.script("api-up", START).await
    }

    /// kubectl straight to the API server, as its administrator.
    #[must_use]
    pub fn admin(&self) -> Kubectl {
        Kubectl::new(&self.folder.join("kubeconfig-admin"))
    }

    /// The kubeconfig of the agent's identity, which may do everything.
    #[must_use]
    pub fn agent_kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig-agent")
    }

    /// The kubeconfig of a new service account that may do what `agentk rbac` prints for this feature, and no more.
    ///
    /// # Errors
    /// When the cluster does not take it.
    pub async fn least_rights(&self, feature: &str, folder: &Path) -> Result<PathBuf> {
        let feature_flag = format!("--features={feature}");
        let account = format!("agentk-{feature}");
        self.with_rights(&account, &[&feature_flag], folder).await
    }

    /// The kubeconfig of a new service account that may do what `agentk rbac` prints with these flags, and no more.
    ///
    /// # Errors
    /// When the cluster does not take it.
    pub async fn with_rights(
        &self,
        account: &str,
        flags: &[&str],
        folder: &Path,
    ) -> Result<PathBuf> {
        let mut rbac = Command::new(programs::own_agentk()?);
        rbac.args(["rbac", "--namespace=default"]).args(flags);
        rbac.arg(format!("--service-account={account}"));
        let printed = rbac.output().await?;
        let admin = self.admin();
        admin.ok(&["create", "serviceaccount", account]).await?;
        admin
            .ok_with(&["apply", "-f", "-"], &printed.stdout)
            .await?;
        let token = admin.ok(&["create", "token", account]).await?;
        let other = std::fs::read_to_string(self.agent_kubeconfig())?;
        let file = folder.join(format!("kubeconfig-{account}"));
        std::fs::write(&file, other.replace("agent-token", token.trim()))?;
        Ok(file)
    }

    /// Gives the node an image of this name: what is in the folder, with programs in its `bin`.
    ///
    /// # Errors
    /// When it cannot be made of it.
    pub async fn image(&self, name: &str, contents: &Path) -> Result<()> {
        let pack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/images/pack");
        let archive = tempfile::NamedTempFile::new()?;
        let mut packing = Command::new(pack);
        packing.arg("docker.io/local/other:1").arg(contents);
        packing.arg(archive.path()).arg(r#"{"Env":["PATH=/bin"]}"#);
        let import = ["images", "import"];
        let tag = ["images", "tag", "docker.io/local/other:1", name];
        succeeds(&mut packing).await?;
        succeeds(self.containers(&import).arg(archive.path())).await?;
        succeeds(&mut self.containers(&tag)).await
    }

    fn containers(&self, args: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.folder.join("containerd.sock"));
        command.arg("--namespace=k8s.io").args(args);
        command
    }

    /// Stops everything and removes the cluster's folder.
    ///
    /// # Errors
    /// When something does not end.
    pub async fn down(&self) -> Result<()> {
        remove(&self.folder).await
    }

    async fn prepare(&self) -> Result<()> {
        let binding = [
            "create",
            "clusterrolebinding",
            "agents",
            "--clusterrole=cluster-admin",
        ];
        self.admin()
            .ok(&[&binding[..], &["--group=agents"]].concat())
            .await
            .map(drop)
    }
}

/// Ends clusters whose test process is gone.
async fn sweep(clusters: &Path) -> Result<()> {
    for entry in std::fs::read_dir(clusters)? {
        let folder = entry?.path();
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let owner = name
            .strip_prefix("cluster-")
            .and_then(|id| id.parse::<u32>().ok());
        if owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            parts::say(&format!(
                "taking away the cluster of a killed run: {}",
                folder.display()
            ));
            remove(&folder).await?;
        }
    }
    Ok(())
}

async fn remove(folder: &Path) -> Result<()> {
    script(&["down".as_ref(), folder], &[], STOP).await?;
    match std::fs::remove_dir_all(folder) {
        // Another program takes away what a killed run has left, too.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("cannot remove {}", folder.display())),
    }
}

async fn succeeds(command: &mut Command) -> Result<()> {
    let output = command.kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {said}");
    Ok(())
}

async fn script(args: &[&Path], variables: &[(&str, &str)], limit: Duration) -> Result<()> {
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("setup/cluster");
    let log = tempfile::NamedTempFile::new()?;
    // A file, not a pipe: the daemons live longer than the script.
    let mut command = Command::new(cluster);
    command
        .args(args)
        .envs(variables.iter().copied())
        .stdout(log.reopen()?)
        .stderr(log.reopen()?)
        .kill_on_drop(true);
    let status = tokio::time::timeout(limit, command.status()).await;
    let said = std::fs::read_to_string(log.path()).unwrap_or_default();
    if !status
        .with_context(|| format!("{args:?} takes over {limit:?}: {said}"))??
        .success()
    {
        bail!("setup/cluster {args:?} failed: {said}");
    }
    Ok(())
}
