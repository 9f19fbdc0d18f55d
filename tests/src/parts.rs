//! Which real parts this machine has; the others are named aloud and their tests skipped.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// Something that tests run against and `tests/setup/install` provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// kubectl, API server, kubelet and their friends, with etcd and containers.
    Cluster,
    /// kubectl alone.
    Kubectl,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
    /// Envoy.
    Envoy,
    /// Redis.
    Redis,
    /// A Go compiler.
    Go,
    /// Network namespaces with a firewall, which only root may make.
    Namespaces,
    /// `script`, which gives a command a terminal.
    Pty,
    /// A browser without a screen.
    Chromium,
    /// Prometheus' tool that checks metrics and tests alerts.
    Promtool,
    /// curl, a client of HTTP/1.1 and HTTP/2 that is not ours.
    Curl,
    /// openssl, which makes certificates.
    Openssl,
    /// A client made with client-go.
    ClientGo,
    /// A client made with Python's package `kubernetes`.
    ClientPython,
    /// A client made with JavaScript's package `@kubernetes/client-node`.
    ClientJavascript,
    /// Helm 3.
    Helm3,
    /// Helm 4.
    Helm4,
    /// Kubernetes' own tests, and what their cluster needs besides.
    Conformance,
}

impl Part {
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Cluster => &[
                "kubectl",
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "etcd",
                "containerd",
                "runc",
                "openssl",
                "gcc",
            ],
            Self::Kubectl => &["kubectl"],
            Self::Haproxy => &["haproxy"],
            Self::Nginx => &["nginx"],
            Self::Envoy => &["envoy"],
            Self::Redis => &["redis-server"],
            Self::Go => &["go"],
            Self::Namespaces => &["ip", "iptables"],
            Self::Pty => &["script"],
            Self::Chromium => &["chromium"],
            Self::Promtool => &["promtool"],
            Self::Curl => &["curl"],
            Self::Openssl => &["openssl"],
            Self::ClientGo => &["kas-client-go"],
            Self::ClientPython => &["kas-client-python"],
            Self::ClientJavascript => &["kas-client-javascript", "node"],
            Self::Helm3 => &["kas-client-helm3"],
            Self::Helm4 => &["kas-client-helm4"],
            Self::Conformance => &[
                "ginkgo",
                "e2e.test",
                "kube-proxy",
                "cluster-dns",
                "iptables",
            ],
        }
    }

    /// Why the part cannot be used; nothing if it can.
    #[must_use]
    pub fn lacking(self) -> Option<String> {
        let absent = self.programs().iter().find(|name| program(name).is_none());
        if let Some(name) = absent {
            let why = "is not installed; see tests/setup";
            return Some(format!("{self:?} ({name} {why})"));
        }
        let forbidden = self == Self::Namespaces && !is_root();
        forbidden.then(|| format!("{self:?} (only root may make them)"))
    }
}

/// Says aloud that a test is skipped if one of its parts is lacking, and whether so.
#[must_use]
pub fn skipped(test: &str, needs: &[Part]) -> bool {
    let lacking: Vec<_> = needs.iter().filter_map(|part| part.lacking()).collect();
    if !lacking.is_empty() {
        say(&format!("SKIPPED: {test} needs {}", lacking.join(", ")));
    }
    !lacking.is_empty()
}

/// Writes a line past the capture of the test runner.
pub fn say(line: &str) {
    let mut out = std::io::stderr().lock();
    writeln!(out, "{line}").ok();
}

/// The folder outside of the tree where built parts are kept.
#[must_use]
pub fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    std::env::var_os("KAS_TEST_CACHE")
        .map_or_else(|| home().join(".cache/kas-tests"), PathBuf::from)
}

/// The version of Kubernetes whose programs the tests run: that of `KAS_TEST_KUBERNETES`, or the one for all.
#[must_use]
pub fn kubernetes_version() -> String {
    let chosen = std::env::var("KAS_TEST_KUBERNETES").ok();
    chosen
        .filter(|version| !version.is_empty())
        .unwrap_or_else(|| {
            include_str!("../setup/kubernetes-version")
                .trim()
                .to_owned()
        })
}

/// Where a program is: in the cache, on the path, or where Debian puts daemons.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let kept = cache().join("bin");
    let mut folders = vec![kept.join(kubernetes_version()), kept];
    folders.extend(std::env::split_paths(&path));
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
