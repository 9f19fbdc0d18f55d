//! What a new demo cluster holds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds;
use super::store::Store;
use super::verbs::{self, WriteContext};

/// Puts the first objects in.
///
/// # Errors
/// Fails only when the store's limits are smaller than this seed.
pub(crate) fn plant(store: &mut Store, now: Timestamp) -> Result<(), Failure> {
    let context = WriteContext::at(now);
    let mut put = |plural, namespace, object| {
        verbs::create(store, kinds::named(plural), namespace, object, context).map(drop)
    };
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        put("namespaces", "", json!({"metadata": {"name": name}}))?;
    }
    put("nodes", "", node(now))?;
    put("leases", "kube-node-lease", node_lease(now))?;
    put("services", "default", api_service())?;
    put("configmaps", "default", welcome())?;
    put("deployments", "default", hello())?;
    put("services", "default", hello_service())
}

fn node(now: Timestamp) -> Value {
    let time = super::clock::seconds(now);
    let resources = json!({"cpu": "4", "memory": "8Gi", "pods": "500",
                           "ephemeral-storage": "50Gi"});
    json!({
        "metadata": {"name": "demo-node", "labels": {
            "kubernetes.io/hostname": "demo-node", "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64", "node-role.kubernetes.io/control-plane": ""}},
        "spec": {"podCIDR": "10.244.0.0/16"},
        "status": {
            "capacity": resources, "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"},
                          {"type": "Hostname", "address": "demo-node"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                            "message": "the demo node is always ready",
                            "lastHeartbeatTime": time, "lastTransitionTime": time}],
            "nodeInfo": {"kubeletVersion": "v1.33.0-kas-demo", "kubeProxyVersion": "",
                         "osImage": "kas demo", "kernelVersion": "none", "architecture": "amd64",
                         "operatingSystem": "linux", "containerRuntimeVersion": "demo://1.0",
                         "machineID": "demo", "systemUUID": "demo", "bootID": "demo"}}})
}

fn node_lease(now: Timestamp) -> Value {
    json!({"metadata": {"name": "demo-node"},
           "spec": {"holderIdentity": "demo-node", "leaseDurationSeconds": 40,
                    "renewTime": super::clock::microseconds(now)}})
}

fn api_service() -> Value {
    json!({"metadata": {"name": "kubernetes",
                        "labels": {"component": "apiserver", "provider": "kubernetes"}},
           "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
                    "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}})
}

fn welcome() -> Value {
    json!({"metadata": {"name": "welcome"},
           "data": {"about": "This cluster lives in the memory of kas. Its pods run nothing; \
                              their logs are made up.",
                    "try": "kubectl scale deployment hello --replicas 4 && kubectl get pods -w"}})
}

fn hello() -> Value {
    let labels = json!({"app": "hello"});
    let container = json!({"name": "hello", "image": "registry.example/hello:1.0",
                           "ports": [{"containerPort": 8080}]});
    json!({"metadata": {"name": "hello", "labels": labels},
           "spec": {"replicas": 2, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels},
                                 "spec": {"containers": [container]}}}})
}

fn hello_service() -> Value {
    json!({"metadata": {"name": "hello", "labels": {"app": "hello"}},
           "spec": {"selector": {"app": "hello"}, "ports": [{"port": 80, "targetPort": 8080}]}})
}
