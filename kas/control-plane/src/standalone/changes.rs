//! What differs between two states of the file, for the audit trail: who may do what is changed there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
};

use audit::{Audit, Change, Kind, Record};
use runtime::yaml;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{AgentInfo, TokenHash};

/// Differences in one record.
const RECORD_CHANGES: usize = 100;
/// Bytes of a value that are told.
const MAX_VALUE_BYTES: usize = 512;
/// Digits of a token's hash that are told, as in `token_id`.
const HASH_DIGITS: usize = 8;
const HASH: &str = "sha256:";
/// Parts of the names of keys whose values are never told.
const SECRET: [&str; 3] = ["secret", "password", "private_key"];

/// Records what changes in the file.
#[derive(Debug)]
pub(super) struct Changes {
    audit: Audit,
    known: Mutex<Value>,
}

impl Changes {
    /// Begins with this text.
    pub(super) fn new(audit: Audit, file: &Path, text: &str) -> Self {
        let changes = Self {
            audit,
            known: Mutex::new(read(text)),
        };
        let loaded = Change {
            change: "loaded",
            subject: "standalone file".to_owned(),
            detail: String::new(),
        };
        changes.record(file, text, &[loaded]);
        changes
    }

    /// Records what differs in a text that is in force now.
    pub(super) fn note(&self, file: &Path, text: &str) {
        let now = read(text);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let differences = between(&known, &now);
        for some in differences.chunks(RECORD_CHANGES) {
            self.record(file, text, some);
        }
        *known = now;
    }

    /// Records that an agentk has joined, from where.
    pub(super) fn note_join(
        &self,
        file: &Path,
        agent: &AgentInfo,
        (token, own): (&TokenHash, &TokenHash),
        from: IpAddr,
    ) {
        let (token, own) = (token.fingerprint(), own.fingerprint());
        let mut record = Record::new(Kind::Change);
        record.client = Some(from.to_string());
        record.reason = Some(format!("{} was written by this replica", file.display()).into());
        record.changes = vec![Change {
            change: "joined",
            subject: format!("agent:{}", agent.name),
            detail: format!("by the join token {HASH}{token}…; its own token is {HASH}{own}…"),
        }];
        self.audit.note(&record);
    }

    fn record(&self, file: &Path, text: &str, changes: &[Change]) {
        let digest = hex::encode(Sha256::digest(text));
        let mut record = Record::new(Kind::Change);
        record.reason = Some(format!("{} was read: sha256 {digest}", file.display()).into());
        record.changes = changes.to_vec();
        self.audit.note(&record);
    }
}

/// The text as it is written, nothing if it is no YAML.
fn read(text: &str) -> Value {
    yaml::read_long(Path::new(""), text).unwrap_or_default()
}

/// The differences, section by section.
fn between(before: &Value, after: &Value) -> Vec<Change> {
    let (none, mut found) = (serde_json::Map::new(), Vec::new());
    let (old, new) = (
        before.as_object().unwrap_or(&none),
        after.as_object().unwrap_or(&none),
    );
    let sections: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for section in sections {
        let (old, new) = (&before[section.as_str()], &after[section.as_str()]);
        if old == new {
            continue;
        }
        match (entries(old), entries(new)) {
            (Some(old), Some(new)) => match (by_name(old), by_name(new)) {
                (Some(old), Some(new)) => named(section, &old, &new, &mut found),
                _ => listed(section, old, new, &mut found),
            },
            _ => found.push(changed(section.clone(), old, new)),
        }
    }
    found
}

/// A list; a missing one is empty.
fn entries(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Null => Some(&[]),
        Value::Array(entries) => Some(entries),
        _ => None,
    }
}

fn by_name(entries: &[Value]) -> Option<BTreeMap<&str, &Value>> {
    let named = entries.iter().map(|it| Some((it["name"].as_str()?, it)));
    named.collect()
}

/// `users` and `alice` are `user:alice`.
fn subject(section: &str, name: &str) -> String {
    format!("{}:{name}", section.strip_suffix('s').unwrap_or(section))
}

fn named(
    section: &str,
    old: &BTreeMap<&str, &Value>,
    new: &BTreeMap<&str, &Value>,
    found: &mut Vec<Change>,
) {
    for (name, was) in old {
        match new.get(name) {
            None => found.push(one("removed", subject(section, name), was)),
            Some(is) if is != was => found.push(changed(subject(section, name), was, is)),
            Some(_) => {}
        }
    }
    for (name, is) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        found.push(one("added", subject(section, name), is));
    }
}

/// Entries without names are told apart by what they say.
fn listed(section: &str, old: &[Value], new: &[Value], found: &mut Vec<Change>) {
    let before = found.len();
    // By what they say: looking through all others for each takes minutes for as many rules as a file may have.
    let mut left: HashMap<&Value, VecDeque<usize>> = HashMap::with_capacity(new.len());
    for (number, is) in new.iter().enumerate() {
        left.entry(is).or_default().push_back(number);
    }
    let mut kept = vec![false; new.len()];
    for (number, was) in old.iter().enumerate() {
        match left.get_mut(was).and_then(VecDeque::pop_front) {
            Some(same) => kept[same] = true,
            None => found.push(one("removed", format!("{section}[{number}]"), was)),
        }
    }
    for (number, is) in new.iter().enumerate().filter(|(number, _)| !kept[*number]) {
        found.push(one("added", format!("{section}[{number}]"), is));
    }
    if found.len() == before {
        found.push(Change {
            change: "changed",
            subject: section.to_owned(),
            detail: "the order".to_owned(),
        });
    }
}

fn one(change: &'static str, subject: String, value: &Value) -> Change {
    Change {
        change,
        subject,
        detail: told(value),
    }
}

/// What differs key by key, as far as there are keys.
fn changed(subject: String, was: &Value, is: &Value) -> Change {
    let detail = match (was.as_object(), is.as_object()) {
        (Some(old), Some(new)) => {
            let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
            let differ = keys
                .into_iter()
                .filter(|key| old.get(*key) != new.get(*key));
            let parts = differ.map(|key| {
                let (was, is) = (&was[key.as_str()], &is[key.as_str()]);
                let (was, is) = (hidden(key, was), hidden(key, is));
                format!("{key}: {} → {}", told(&was), told(&is))
            });
            parts.collect::<Vec<_>>().join("; ")
        }
        _ => format!("{} → {}", told(was), told(is)),
    };
    Change {
        change: "changed",
        subject,
        detail,
    }
}

/// A value as one line, without secrets, cut.
fn told(value: &Value) -> String {
    let text = without_secrets(value).to_string();
    let shown = &text[..text.floor_char_boundary(MAX_VALUE_BYTES)];
    match shown.len() == text.len() {
        true => text,
        false => format!("{shown}…"),
    }
}

fn without_secrets(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let shown = map.iter().map(|(key, value)| {
                let value = without_secrets(&hidden(key, value));
                (key.clone(), value)
            });
            Value::Object(shown.collect())
        }
        Value::Array(list) => list.iter().map(without_secrets).collect(),
        Value::String(text) if text.starts_with(HASH) => {
            let digits = text.chars().skip(HASH.len()).take(HASH_DIGITS);
            format!("{HASH}{}…", digits.collect::<String>()).into()
        }
        other => other.clone(),
    }
}

fn hidden(key: &str, value: &Value) -> Value {
    let is_secret = SECRET.iter().any(|part| key.contains(part)) && !key.ends_with("_file");
    match is_secret && !value.is_null() {
        true => "…".into(),
        false => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(before: &str, after: &str) -> Vec<(&'static str, String, String)> {
        let all = between(&read(before), &read(after));
        all.into_iter()
            .map(|it| (it.change, it.subject, it.detail))
            .collect()
    }

    #[test]
    fn what_was_granted_and_taken_is_told() {
        let before = "users: [{name: ana, groups: [a]}, {name: bob}]\n\
                      access: [{agents: '*', users: [ana], access_as: agent}]";
        let after = "users: [{name: ana, groups: [a, admins]}, {name: eve}]\n\
                     access: [{agents: '*', users: [eve], access_as: agent}]";

        let found = differences(before, after);

        let told: Vec<_> = found.iter().map(|it| (it.0, it.1.as_str())).collect();
        assert_eq!(
            told,
            [
                ("removed", "access[0]"),
                ("added", "access[0]"),
                ("changed", "user:ana"),
                ("removed", "user:bob"),
                ("added", "user:eve"),
            ]
        );
        assert!(found[1].2.contains("\"users\":[\"eve\"]"), "{found:?}");
        assert_eq!(found[2].2, "groups: [\"a\"] → [\"a\",\"admins\"]");
    }

    #[test]
    fn an_order_of_rules_that_changed_is_told() {
        let rules =
            |first, second| format!("access: [{{users: [{first}]}}, {{users: [{second}]}}]");

        let found = differences(&rules("a", "b"), &rules("b", "a"));

        assert_eq!(found, [("changed", "access".into(), "the order".into())]);
    }

    /// Compared pair by pair this would be hundreds of millions of comparisons of whole rules.
    #[test]
    fn as_many_rules_as_a_file_may_have_are_compared_each_with_its_like() {
        let rule = |number: usize| serde_json::json!({"agents": ["demo"], "users": [format!("user-{number}")], "access_as": "user"});
        let rules = |numbers: &mut dyn Iterator<Item = usize>| serde_json::json!({"access": numbers.map(rule).collect::<Vec<_>>()});
        let old = rules(&mut (0..20_000));
        // The other way round, without the first one, with one more and one twice.
        let new = rules(&mut (1..20_000).rev().chain([20_000, 7]));

        let found = between(&old, &new);

        let told: Vec<_> = found
            .iter()
            .map(|it| (it.change, it.subject.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("removed", "access[0]"),
                ("added", "access[19999]"),
                ("added", "access[20000]"),
            ]
        );
        let order = between(&old, &rules(&mut (0..20_000).rev()));
        assert_eq!(order.len(), 1);
        assert_eq!(order[0].detail, "the order");
    }

    #[test]
    fn hashes_are_cut_and_secrets_are_not_told() {
        let hash = format!("sha256:{}", "ab".repeat(32));
        let after = format!(
            "agents: [{{name: a, tokens: [{{hash: '{hash}'}}], client_secret: hush, key_file: /k}}]"
        );

        let found = differences("agents: []", &after);

        let detail = &found[0].2;
        assert!(
            detail.contains("sha256:abababab…") && detail.contains("/k"),
            "{detail}"
        );
        assert!(
            !detail.contains("hush") && !detail.contains(&hash),
            "{detail}"
        );
    }
}
