//! Reviews: who the caller is and what it may do. In the demo cluster, everything.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::failure::Failure;

/// Answers the review of that plural.
pub(crate) fn answer(review: &str, headers: &HeaderMap, body: &Value) -> Result<Value, Failure> {
    match review {
        "selfsubjectreviews" => Ok(json!({
            "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": null},
            "status": {"userInfo": caller(headers)}})),
        "selfsubjectaccessreviews" => Ok(access(
            "SelfSubjectAccessReview",
            body,
            json!({"allowed": true, "reason": "the demo cluster allows everything"}),
        )),
        "selfsubjectrulesreviews" => Ok(access(
            "SelfSubjectRulesReview",
            body,
            json!({"incomplete": false,
                   "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                   "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}),
        )),
        _ => Err(Failure::no_such_path()),
    }
}

fn access(kind: &str, body: &Value, status: Value) -> Value {
    json!({"kind": kind, "apiVersion": "authorization.k8s.io/v1",
           "metadata": {"creationTimestamp": null}, "spec": body["spec"], "status": status})
}

fn caller(headers: &HeaderMap) -> Value {
    let all = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    };
    let users = all("impersonate-user");
    let Some(user) = users.first() else {
        return json!({"username": "system:demo-admin",
                      "groups": ["system:masters", "system:authenticated"]});
    };
    let mut groups = all("impersonate-group");
    if !groups.iter().any(|group| group == "system:authenticated") {
        groups.push("system:authenticated".to_owned());
    }
    let mut caller = json!({"username": user, "groups": groups});
    if let Some(uid) = all("impersonate-uid").first() {
        caller["uid"] = json!(uid);
    }
    let extra = extra(headers);
    if !extra.is_empty() {
        caller["extra"] = Value::Object(extra);
    }
    caller
}

fn extra(headers: &HeaderMap) -> Map<String, Value> {
    let mut extra = Map::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix("impersonate-extra-") else {
            continue;
        };
        let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
        let values = extra.entry(key).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(String::from_utf8_lossy(value.as_bytes())));
        }
    }
    extra
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn whoami(pairs: &[(&'static str, &'static str)]) -> Value {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers
                .try_append(
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
                .unwrap();
        }
        answer("selfsubjectreviews", &headers, &Value::Null).unwrap()["status"]["userInfo"].clone()
    }

    #[test]
    fn the_impersonated_user_is_the_caller() {
        let caller = whoami(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "devs"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-agent.gitlab.com%2fid", "1"),
            ("impersonate-extra-agent.gitlab.com%2fid", "2"),
        ]);

        assert_eq!(
            caller,
            json!({"username": "jane", "groups": ["devs", "system:authenticated"], "uid": "7",
                   "extra": {"agent.gitlab.com/id": ["1", "2"]}})
        );
        assert_eq!(whoami(&[])["username"], "system:demo-admin");
    }
}
