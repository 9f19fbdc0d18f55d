//! What became of each test, as ginkgo reports it and as we keep it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::settings::{Group, Settings, Way};

/// What kas says when a connection broke between a write and its answer.
const UNKNOWN: &str = "the outcome is unknown: the cluster may have carried out the request";
/// A failure's text is cut there.
const WHY_BYTES: usize = 2000;

/// Tests of one group by one way: how a test failed, or nothing if it passed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcomes(BTreeMap<String, Option<String>>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Vec<Spec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_text: String,
    leaf_node_type: String,
    state: String,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

impl Spec {
    fn name(&self) -> String {
        let containers = self.container_hierarchy_texts.iter().flatten();
        let texts = containers.chain([&self.leaf_node_text]);
        texts.cloned().collect::<Vec<_>>().join(" ")
    }

    /// Those that were not asked for are skipped without a word.
    fn was_run(&self) -> bool {
        let skipped = self.state == "skipped" && self.failure.is_none();
        self.leaf_node_type == "It" && !skipped && self.state != "pending"
    }

    fn why(&self) -> Option<String> {
        let said = self.failure.as_ref().map_or("", |it| &it.message);
        let end = said.floor_char_boundary(WHY_BYTES);
        (self.state != "passed").then(|| format!("{}: {}", self.state, &said[..end]))
    }
}

impl Outcomes {
    /// What is in ginkgo's report.
    pub(crate) fn read(report: &Path) -> Result<Self> {
        let text = std::fs::read(report).with_context(|| report.display().to_string())?;
        let suites: Vec<Suite> = serde_json::from_slice(&text)?;
        let specs = suites.iter().flat_map(|suite| &suite.spec_reports);
        let run = specs.filter(|spec| spec.was_run());
        Ok(Self(run.map(|spec| (spec.name(), spec.why())).collect()))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn has(&self, test: &str) -> bool {
        self.0.contains_key(test)
    }

    pub(crate) fn passes(&self, test: &str) -> bool {
        self.0.get(test).is_some_and(Option::is_none)
    }

    pub(crate) fn passed(&self) -> impl Iterator<Item = &str> {
        let passed = self.0.iter().filter(|it| it.1.is_none());
        passed.map(|it| it.0.as_str())
    }

    pub(crate) fn failed(&self) -> impl Iterator<Item = (&str, &str)> {
        let failed = self.0.iter();
        failed.filter_map(|it| Some((it.0.as_str(), it.1.as_deref()?)))
    }
}

/// Whether a test failed since a connection was reset while the API server was at work on a write of it: nobody but the
/// client can say then whether to write again.
pub(crate) fn is_unknown_write(why: &str) -> bool {
    why.contains(UNKNOWN)
}

/// The outcomes of this run and of earlier ones.
#[derive(Debug)]
pub(crate) struct Kept(PathBuf);

impl Kept {
    pub(crate) fn in_folder(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self(folder.canonicalize()?))
    }

    /// An empty folder for configurations and what programs say. Other runs at the same time have their own.
    pub(crate) fn logs(&self, settings: &Settings) -> Result<PathBuf> {
        let groups = settings.groups.iter().map(Group::to_string);
        let ways = settings.ways.iter().map(Way::to_string);
        let names: Vec<_> = ["logs".to_owned()]
            .into_iter()
            .chain(groups)
            .chain(ways)
            .collect();
        let folder = self.0.join(names.join("-"));
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    pub(crate) fn of(&self, group: Group, way: Way) -> Result<Option<Outcomes>> {
        let file = self.file(group, way);
        if !file.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&file)?;
        let outcomes = serde_json::from_slice(&text);
        outcomes.with_context(|| file.display().to_string())
    }

    pub(crate) fn keep(&self, group: Group, way: Way, outcomes: &Outcomes) -> Result<()> {
        let text = serde_json::to_vec_pretty(outcomes)?;
        Ok(std::fs::write(self.file(group, way), text)?)
    }

    fn file(&self, group: Group, way: Way) -> PathBuf {
        self.0.join(format!("{group}-{way}.json"))
    }
}

#[test]
fn a_report_tells_what_passed_and_why_others_did_not() -> Result<()> {
    let spec = |text: &str, state: &str, failure: &str| {
        format!(
            r#"{{"ContainerHierarchyTexts": ["[sig-cli] Kubectl"], "LeafNodeText": "{text}", "LeafNodeType": "It",
                 "State": "{state}"{failure}}}"#
        )
    };
    let said = r#", "Failure": {"Message": "because"}"#;
    let specs = [
        spec("one", "passed", ""),
        spec("two", "failed", said),
        spec("three", "skipped", said),
        spec("four", "skipped", ""),
        r#"{"ContainerHierarchyTexts": null, "LeafNodeText": "", "LeafNodeType": "BeforeSuite", "State": "passed"}"#.to_owned(),
    ];
    let report = tempfile::NamedTempFile::new()?;
    std::fs::write(
        &report,
        format!(r#"[{{"SpecReports": [{}]}}]"#, specs.join(",")),
    )?;

    let outcomes = Outcomes::read(report.path())?;

    assert_eq!(outcomes.count(), 3);
    assert!(outcomes.passes("[sig-cli] Kubectl one"));
    let failed: Vec<_> = outcomes.failed().collect();
    assert_eq!(
        failed,
        [
            ("[sig-cli] Kubectl three", "skipped: because"),
            ("[sig-cli] Kubectl two", "failed: because")
        ]
    );
    Ok(())
}
