//! The values that the API server fills in where a manifest says nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::kinds::{self, KindId};

/// Fills in what the object leaves out.
pub(crate) fn fill(kind: KindId, object: &mut Value) {
    match kind.info().plural {
        "pods" => {
            pod_spec(section(object, "spec"));
            default(section(object, "status"), "phase", json!("Pending"));
            let class = json!("BestEffort");
            default(section(object, "status"), "qosClass", class);
        }
        "deployments" => deployment(object),
        "replicasets" => {
            default(section(object, "spec"), "replicas", json!(1));
            template(object);
        }
        "services" => service(section(object, "spec")),
        "secrets" => secret(object),
        "namespaces" => namespace(object),
        "persistentvolumeclaims" => {
            default(section(object, "status"), "phase", json!("Pending"));
        }
        _ => {}
    }
}

/// Whether objects of that kind count their generations.
pub(crate) fn has_generation(kind: KindId) -> bool {
    let apps = kind.info().group == "apps";
    apps || kind.info().group == "networking.k8s.io" || kind == kinds::named("pods")
}

type Fields = Map<String, Value>;

fn section<'a>(object: &'a mut Value, name: &str) -> &'a mut Fields {
    if !object[name].is_object() {
        object[name] = json!({});
    }
    object[name].as_object_mut().expect("made an object above")
}

fn default(fields: &mut Fields, name: &str, value: Value) {
    let place = fields.entry(name).or_insert(Value::Null);
    if place.is_null() {
        *place = value;
    }
}

fn deployment(object: &mut Value) {
    let spec = section(object, "spec");
    default(spec, "replicas", json!(1));
    default(spec, "revisionHistoryLimit", json!(10));
    default(spec, "progressDeadlineSeconds", json!(600));
    default(spec, "strategy", json!({"type": "RollingUpdate"}));
    if spec["strategy"]["type"] == "RollingUpdate"
        && let Some(strategy) = spec["strategy"].as_object_mut()
    {
        let quarter = json!({"maxSurge": "25%", "maxUnavailable": "25%"});
        default(strategy, "rollingUpdate", quarter);
    }
    template(object);
}

fn template(object: &mut Value) {
    if let Some(spec) = object
        .pointer_mut("/spec/template/spec")
        .and_then(Value::as_object_mut)
    {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Fields) {
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                fill_container(container);
            }
        }
    }
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", json!("default-scheduler"));
}

fn fill_container(container: &mut Fields) {
    default(container, "resources", json!({}));
    let log = json!("/dev/termination-log");
    default(container, "terminationMessagePath", log);
    default(container, "terminationMessagePolicy", json!("File"));
    let image = container.get("image").and_then(Value::as_str);
    let policy = pull_policy(image.unwrap_or_default());
    default(container, "imagePullPolicy", json!(policy));
    protocols(container);
}

fn pull_policy(image: &str) -> &'static str {
    let tag = image.rsplit('/').next().unwrap_or_default();
    if tag.ends_with(":latest") || !tag.contains([':', '@']) {
        return "Always";
    }
    "IfNotPresent"
}

fn protocols(fields: &mut Fields) {
    let ports = fields.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            default(port, "protocol", json!("TCP"));
        }
    }
}

fn service(spec: &mut Fields) {
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    default(spec, "internalTrafficPolicy", json!("Cluster"));
    default(spec, "ipFamilies", json!(["IPv4"]));
    default(spec, "ipFamilyPolicy", json!("SingleStack"));
    protocols(spec);
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        let number = port["port"].clone();
        if let Some(port) = port.as_object_mut() {
            default(port, "targetPort", number);
        }
    }
}

fn secret(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    default(fields, "type", json!("Opaque"));
    let Some(Value::Object(plain)) = fields.shift_remove("stringData") else {
        return;
    };
    let data = section(object, "data");
    for (name, value) in plain {
        let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
        data.insert(name, json!(encoded));
    }
}

fn namespace(object: &mut Value) {
    default(section(object, "spec"), "finalizers", json!(["kubernetes"]));
    default(section(object, "status"), "phase", json!("Active"));
    let name = object["metadata"]["name"].clone();
    let metadata = section(object, "metadata");
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
}
