//! The demo cluster under the real kubectl.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test's helpers fail the test, and a skipped test says so"
)]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use playground::demo_cluster;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(180);

const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: red}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "registry.example/web:1", ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"#;

/// A demo cluster of its own and a kubectl that is pointed at it.
struct Demo {
    kubectl: PathBuf,
    home: TempDir,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
}

/// What a finished kubectl said.
struct Said {
    good: bool,
    text: String,
}

/// A kubectl that goes on, read line by line.
struct Following {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Demo {
    /// `None`, said loudly, where there is no kubectl.
    async fn start(test: &str) -> Option<Self> {
        let Some(kubectl) = find_kubectl() else {
            eprintln!("SKIPPED {test}: no kubectl in the test cache or on the PATH");
            return None;
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let home = TempDir::new().unwrap();
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: demo\n\
             clusters: [{{name: demo, cluster: {{server: \"{server}\"}}}}]\n\
             contexts: [{{name: demo, context: {{cluster: demo}}}}]\n"
        );
        std::fs::write(home.path().join("kubeconfig"), kubeconfig).unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(demo_cluster::serve(listener, stop.clone()));
        Some(Self {
            kubectl,
            home,
            stop,
            server,
        })
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.kubectl);
        command
            .args(line.split_whitespace())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"))
            .env("HOME", self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, line: &str, input: &str) -> Said {
        let mut child = self.command(line).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = timeout(DEADLINE, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("kubectl {line} does not end"));
        let output = output.unwrap();
        let text = [output.stdout, output.stderr].concat();
        Said {
            good: output.status.success(),
            text: String::from_utf8(text).unwrap(),
        }
    }

    /// Runs a kubectl that must succeed.
    async fn kubectl(&self, line: &str) -> String {
        self.kubectl_with(line, "").await
    }

    async fn kubectl_with(&self, line: &str, input: &str) -> String {
        let said = self.run(line, input).await;
        assert!(said.good, "kubectl {line}: {}", said.text);
        said.text
    }

    /// Runs a kubectl that must fail.
    async fn refused(&self, line: &str, input: &str) -> String {
        let said = self.run(line, input).await;
        assert!(!said.good, "kubectl {line}: {}", said.text);
        said.text
    }

    fn follow(&self, line: &str) -> Following {
        let mut child = self.command(line).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Following {
            child,
            lines: stdout.lines(),
        }
    }

    /// Stops the cluster, which must not take long.
    async fn end(self) {
        self.stop.cancel();
        let ended = timeout(DEADLINE, self.server).await.expect("serve ends");
        ended.unwrap().unwrap();
    }
}

impl Following {
    /// Reads up to the first line that is wanted.
    async fn until(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let reading = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if wanted(&line) {
                    return line;
                }
            }
            panic!("kubectl ended before it said what was wanted");
        };
        timeout(DEADLINE, reading).await.expect("in time")
    }

    async fn ends(mut self) {
        let ending = async {
            while self.lines.next_line().await.unwrap().is_some() {}
            self.child.wait().await.unwrap()
        };
        timeout(DEADLINE, ending).await.expect("kubectl ends");
    }
}

fn find_kubectl() -> Option<PathBuf> {
    let cache = std::env::var_os("KAS_TEST_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/kas-tests"));
    let version = std::env::var("KAS_TEST_KUBERNETES").ok();
    let version = version.filter(|version| !version.is_empty());
    let newest = include_str!("../../../tests/setup/kubernetes-version").trim();
    let kept = cache.or(home).map(|cache| cache.join("bin"));
    let of_version = (kept.as_ref()).map(|bin| bin.join(version.as_deref().unwrap_or(newest)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    of_version
        .into_iter()
        .chain(kept)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("kubectl"))
        .find(|kubectl| kubectl.is_file())
}

fn has_all(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn shows_what_there_is() {
    let Some(demo) = Demo::start("shows_what_there_is").await else {
        return;
    };

    demo.kubectl("rollout status deployment/hello --timeout=120s")
        .await;

    let pods = demo.kubectl("get pods --chunk-size=1").await;
    has_all(
        &pods,
        &[
            "READY", "STATUS", "RESTARTS", "AGE", "1/1", "Running", "hello-",
        ],
    );
    has_all(
        &demo.kubectl("get ns").await,
        &["default", "kube-system", "Active"],
    );
    has_all(
        &demo.kubectl("get nodes -o wide").await,
        &["demo-node", "Ready"],
    );
    has_all(
        &demo.kubectl("get all -A").await,
        &["deployment.apps/hello", "service/hello"],
    );
    has_all(
        &demo.kubectl("get deploy,rs -o wide").await,
        &["2/2", "app=hello"],
    );
    has_all(
        &demo.kubectl("api-resources").await,
        &["configmaps", "deploy", "Lease"],
    );
    has_all(&demo.kubectl("version").await, &["Server Version: v1.33"]);
    has_all(&demo.kubectl("auth whoami").await, &["system:demo-admin"]);
    has_all(&demo.kubectl("auth can-i delete pods").await, &["yes"]);
    has_all(
        &demo.kubectl("explain deployment.spec.template.spec").await,
        &["containers"],
    );
    has_all(
        &demo.kubectl("get events").await,
        &["Scheduled", "ScalingReplicaSet"],
    );
    let as_jane = demo.kubectl("--as jane --as-group devs auth whoami").await;
    has_all(&as_jane, &["jane", "devs"]);
    demo.end().await;
}

#[tokio::test]
async fn describes_every_kind_of_object() {
    let Some(demo) = Demo::start("describes_every_kind_of_object").await else {
        return;
    };

    demo.kubectl("rollout status deployment/hello --timeout=120s")
        .await;

    // Of several objects a newer kubectl shows events only when asked to.
    let pods = demo.kubectl("describe pods --show-events").await;
    has_all(
        &pods,
        &["Controlled By:", "Started container hello", "Running"],
    );
    let deployment = demo.kubectl("describe deployment hello").await;
    has_all(
        &deployment,
        &["2 desired | 2 updated | 2 total | 2 available"],
    );
    has_all(
        &demo.kubectl("describe node demo-node").await,
        &["Non-terminated Pods:"],
    );
    has_all(&demo.kubectl("describe ns default").await, &["Active"]);
    has_all(
        &demo.kubectl("describe service hello").await,
        &["app=hello", "10.244.0."],
    );
    has_all(&demo.kubectl("describe cm welcome").await, &["about"]);
    demo.end().await;
}

#[tokio::test]
async fn applies_changes_and_deletes_manifests() {
    let Some(demo) = Demo::start("applies_changes_and_deletes_manifests").await else {
        return;
    };

    let made = demo.kubectl_with("apply -f -", MANIFEST).await;
    has_all(
        &made,
        &["configmap/settings created", "deployment.apps/web created"],
    );
    let again = demo.kubectl_with("apply -f -", MANIFEST).await;
    has_all(
        &again,
        &["configmap/settings unchanged", "service/web unchanged"],
    );

    let changed = MANIFEST.replace("red", "blue").replace("web:1", "web:2");
    let difference = demo.run("diff -f -", &changed).await.text;
    has_all(&difference, &["-  colour: red", "+  colour: blue"]);
    demo.kubectl_with("apply -f -", &changed).await;
    let colour = demo
        .kubectl("get cm settings -o jsonpath={.data.colour}")
        .await;
    assert_eq!(colour, "blue");
    demo.kubectl_with("apply --server-side --force-conflicts -f -", &changed)
        .await;

    demo.kubectl_with("delete -f -", MANIFEST).await;
    demo.kubectl("wait --for=delete pods -l app=web --timeout=120s")
        .await;
    has_all(
        &demo.kubectl("get deploy,rs,pods -l app=web").await,
        &["No resources found"],
    );
    demo.end().await;
}

#[tokio::test]
async fn rolls_deployments_forward_and_back() {
    let Some(demo) = Demo::start("rolls_deployments_forward_and_back").await else {
        return;
    };
    let status = "rollout status deployment/hello --timeout=120s";
    let image = "get deploy hello -o jsonpath={.spec.template.spec.containers[0].image}";

    demo.kubectl("set image deployment/hello hello=registry.example/hello:2.0")
        .await;
    demo.kubectl(status).await;
    assert_eq!(demo.kubectl(image).await, "registry.example/hello:2.0");

    demo.kubectl("rollout undo deployment/hello").await;
    demo.kubectl(status).await;
    assert_eq!(demo.kubectl(image).await, "registry.example/hello:1.0");

    demo.kubectl("scale deployment hello --replicas=5").await;
    demo.kubectl(status).await;
    demo.kubectl("rollout restart deployment hello").await;
    demo.kubectl(status).await;
    has_all(&demo.kubectl("get deploy hello").await, &["5/5"]);
    demo.end().await;
}

#[tokio::test]
async fn makes_and_removes_namespaces() {
    let Some(demo) = Demo::start("makes_and_removes_namespaces").await else {
        return;
    };

    demo.kubectl("create namespace team").await;
    demo.kubectl("-n team create configmap c --from-literal=a=b")
        .await;
    demo.kubectl("-n team create secret generic s --from-literal=a=b")
        .await;
    demo.kubectl("-n team create deployment d --image=x:1 --replicas=2")
        .await;
    demo.kubectl("-n team create service clusterip d --tcp=80")
        .await;
    demo.kubectl("-n team run p --image=x:1").await;
    demo.kubectl("-n team wait --for=condition=Ready pod/p --timeout=120s")
        .await;
    demo.kubectl("-n team rollout status deployment d --timeout=120s")
        .await;
    demo.kubectl("-n team label pod p colour=red").await;
    demo.kubectl("-n team annotate pod p why=test").await;
    let red = demo.kubectl("-n team get pods -l colour=red -o name").await;
    assert_eq!(red.trim(), "pod/p");
    demo.kubectl("-n team delete pod p --now").await;

    demo.kubectl("delete namespace team --timeout=120s").await;
    demo.refused("get namespace team", "").await;
    demo.end().await;
}

#[tokio::test]
async fn watches_pods_come_and_go() {
    let Some(demo) = Demo::start("watches_pods_come_and_go").await else {
        return;
    };
    demo.kubectl("run first --image=x:1 -l app=watched").await;
    let mut watch = demo.follow("get pods -w -l app=watched");
    // Else it may come when the other pod is beyond its first states.
    watch.until(|line| line.starts_with("first")).await;

    demo.kubectl("run watched --image=x:1 -l app=watched").await;

    for status in ["Pending", "ContainerCreating", "Running"] {
        watch
            .until(|line| line.starts_with("watched") && line.contains(status))
            .await;
    }
    demo.kubectl("delete pod watched").await;
    watch.until(|line| line.contains("Terminating")).await;
    demo.end().await;
    watch.ends().await;
}

#[tokio::test]
async fn follows_logs_until_the_pod_is_gone() {
    let Some(demo) = Demo::start("follows_logs_until_the_pod_is_gone").await else {
        return;
    };
    demo.kubectl("run talker --image=x:1").await;
    demo.kubectl("wait --for=condition=Ready pod/talker --timeout=120s")
        .await;

    let mut logs = demo.follow("logs -f talker --timestamps");
    logs.until(|line| line.ends_with("talker talker: line 0"))
        .await;
    let third = logs.until(|line| line.ends_with("line 2")).await;

    assert!(third.starts_with("20"), "{third}");
    let tail = demo.kubectl("logs talker --tail=1").await;
    assert_eq!(tail.lines().count(), 1);
    demo.kubectl("delete pod talker").await;
    logs.ends().await;
    demo.end().await;
}

#[tokio::test]
async fn refuses_with_the_reason() {
    let Some(demo) = Demo::start("refuses_with_the_reason").await else {
        return;
    };
    demo.kubectl("rollout status deployment/hello --timeout=120s")
        .await;

    let typo = MANIFEST.replace("replicas", "replica");
    for (line, input, reason) in [
        ("exec deploy/hello -- ls", "", "runs no containers"),
        ("port-forward deploy/hello 0:80", "", "runs no containers"),
        ("get pod nobody", "", "pods \"nobody\" not found"),
        ("get unicorns", "", "doesn't have a resource type"),
        ("delete ns kube-system", "", "may not be deleted"),
        ("create cm welcome", "", "already exists"),
        ("create cm Bad_Name", "", "RFC 1123"),
        ("logs deploy/hello --previous", "", "previous terminated"),
        (
            "apply -f -",
            typo.as_str(),
            "unknown field \"spec.replica\"",
        ),
    ] {
        let said = demo.refused(line, input).await;
        assert!(said.contains(reason), "kubectl {line}: {said}");
    }

    let stale = "apiVersion: v1\nkind: ConfigMap\n\
                 metadata: {name: welcome, resourceVersion: \"1\"}\n";
    let said = demo.refused("replace -f -", stale).await;
    has_all(&said, &["the object has been modified"]);
    demo.end().await;
}
