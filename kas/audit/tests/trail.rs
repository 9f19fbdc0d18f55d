//! The trail as it is used: opened, written, verified, searched.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use audit::{
    Audit, Identity, Kind, Record, Writers,
    config::AuditSection,
    search::{Filter, search},
    verify::{Report, verify},
};
use prometheus_client::registry::Registry;
use tokio::{io::AsyncReadExt, net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A trail that is written.
struct Trail {
    audit: Audit,
    stop: CancellationToken,
    writing: JoinHandle<()>,
    registry: Registry,
}

impl Trail {
    fn open(yaml: &str) -> Self {
        let (section, _): (AuditSection, _) =
            runtime::yaml::read_section("kas.yaml".as_ref(), yaml).expect("it is good");
        let identity = Identity {
            replica: "kas-1".into(),
            version: "1".into(),
        };
        let mut registry = Registry::default();
        let (audit, writers): (Audit, Writers) =
            Audit::open(&section, identity, &mut registry).expect("it opens");
        let stop = CancellationToken::new();
        let writing = tokio::spawn(writers.run(stop.clone()));
        Self {
            audit,
            stop,
            writing,
            registry,
        }
    }

    fn note(&self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            let id = id.to_string();
            let mut record = Record::new(Kind::Begin);
            record.request_id = Some(&id);
            record.user = Some("user:alice".into());
            self.audit.note(&record);
        }
    }

    /// Records that were lost, at all sinks.
    fn dropped(&self) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("it is text");
        let lines = text
            .lines()
            .filter(|it| it.starts_with("audit_records_total") && it.contains("dropped"));
        let counts = lines.filter_map(|it| it.rsplit_once(' ')?.1.parse::<u64>().ok());
        counts.sum()
    }

    async fn close(self) {
        self.stop.cancel();
        self.writing.await.expect("it ends in order");
    }
}

/// A folder with a trail in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn yaml(&self, more: &str) -> String {
        let path = self.file("audit.jsonl");
        format!("sinks: [{{file: {{path: {}{more}}}}}]", path.display())
    }

    /// All files of the trail.
    fn all(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.0.path()).expect("it is listed");
        files.map(|it| it.expect("it is listed").path()).collect()
    }

    fn verified(&self, last: Option<&str>) -> Report {
        verify(&self.all(), None, last, None).expect("they are read")
    }
}

fn problems(report: &Report) -> Vec<&str> {
    let findings = report.findings.iter();
    findings.map(|it| it.problem.as_str()).collect()
}

#[tokio::test]
async fn the_chain_goes_on_over_rotation_and_restart() {
    let folder = Folder::new();
    let yaml = folder.yaml(", max_bytes: 2000, max_files: 50");
    for _ in 0..3 {
        let trail = Trail::open(&yaml);
        trail.note(0..20);
        trail.close().await;
    }

    let report = folder.verified(None);

    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!((report.chains.len(), report.records), (1, 3 * 22));
    assert_eq!(report.chains[0].first, 0);
    assert!(folder.all().len() > 2, "{:?}", folder.all());
}

#[tokio::test]
async fn old_files_go_and_what_is_left_is_sound() {
    let folder = Folder::new();
    let trail = Trail::open(&folder.yaml(", max_bytes: 1, max_files: 3"));
    for id in 0..10 {
        trail.note([id]);
        while !fs::read_to_string(folder.file("audit.jsonl"))
            .is_ok_and(|text| text.contains(&format!("\"request_id\":\"{id}\"")))
        {
            tokio::task::yield_now().await;
        }
    }
    trail.close().await;

    let report = folder.verified(None);

    assert_eq!(folder.all().len(), 3);
    assert!(report.findings.is_empty(), "{report:?}");
    assert!(report.chains[0].first > 0);
}

#[tokio::test]
async fn what_was_changed_removed_moved_or_cut_is_found() {
    let folder = Folder::new();
    let trail = Trail::open(&folder.yaml(""));
    trail.note(0..10);
    trail.close().await;
    let file = folder.file("audit.jsonl");
    let sound = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = sound.lines().collect();
    let last = folder.verified(None).chains[0].last.clone();
    let written = |lines: &[&str]| {
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        folder.verified(Some(&last))
    };
    assert!(written(&lines).findings.is_empty());

    let mut flipped = sound.clone().into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&file, flipped).unwrap();
    assert_eq!(folder.verified(None).total_findings, 1);

    let removed = written(&[&lines[..4], &lines[5..]].concat());
    assert_eq!(
        problems(&removed),
        ["records 4 to 4 are missing before record 5"]
    );

    let mut moved = lines.clone();
    moved.swap(4, 5);
    assert!(!written(&moved).findings.is_empty());

    let cut = written(&lines[..lines.len() - 1]);
    assert!(
        problems(&cut)[0].contains("their end was cut off"),
        "{cut:?}"
    );
}

#[tokio::test]
async fn half_a_record_of_a_crash_is_removed_and_said() {
    let folder = Folder::new();
    let trail = Trail::open(&folder.yaml(""));
    trail.note([1]);
    trail.close().await;
    let file = folder.file("audit.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "{\"v\":1,\"ti").unwrap();

    Trail::open(&folder.yaml("")).close().await;

    let report = folder.verified(None);
    assert!(report.findings.is_empty(), "{report:?}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("10 bytes of a record that was not whole were removed"));
}

#[tokio::test]
async fn two_processes_do_not_write_one_file() {
    let folder = Folder::new();
    let trail = Trail::open(&folder.yaml(""));
    let (section, _): (AuditSection, _) =
        runtime::yaml::read_section("kas.yaml".as_ref(), &folder.yaml("")).unwrap();
    let identity = Identity {
        replica: "kas-2".into(),
        version: "1".into(),
    };

    let refused = Audit::open(&section, identity, &mut Registry::default()).unwrap_err();

    assert!(refused.to_string().contains("another process writes"));
    trail.close().await;
}

/// Waits until a file has this text.
async fn written(path: &Path, text: &str) {
    let there = async {
        while !fs::read_to_string(path).is_ok_and(|all| all.contains(text)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let there = tokio::time::timeout(Duration::from_secs(60), there).await;
    there.unwrap_or_else(|_| panic!("no {text} in {}", path.display()));
}

/// A sink that takes connections and never answers.
async fn hung() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    (listener, url)
}

#[tokio::test]
async fn a_sink_that_hangs_delays_no_other_and_what_it_loses_is_counted() {
    let folder = Folder::new();
    let (_listener, url) = hung().await;
    let path = folder.file("audit.jsonl");
    let yaml = format!(
        "sinks: [{{http: {{url: '{url}'}}}}, {{file: {{path: {}}}}}]",
        path.display()
    );
    let trail = Trail::open(&yaml);

    for hundred in 0..20 {
        trail.note(hundred * 100..hundred * 100 + 100);
        let last = format!("\"request_id\":\"{}\"", hundred * 100 + 99);
        written(&path, &last).await;
    }
    // Of 2,000 records of one caller 1,024 wait; others have room.
    assert_eq!(trail.dropped(), 2000 - 1024);
    let mut bystander = Record::new(Kind::Begin);
    bystander.user = Some("user:bob".into());
    trail.audit.note(&bystander);
    assert_eq!(trail.dropped(), 2000 - 1024);
    // Else it may be read while it is being written.
    written(&path, "user:bob").await;

    trail.writing.abort();
    let report = folder.verified(None);
    assert!(report.findings.is_empty(), "{report:?}");
    assert!(report.records > 2000 && report.dropped == 0, "{report:?}");
}

#[tokio::test]
async fn where_records_are_required_a_hung_sink_stops_what_would_have_none() {
    let (_listener, url) = hung().await;
    let yaml =
        format!("{{required: true, required_timeout: 1s, sinks: [{{http: {{url: '{url}'}}}}]}}");
    let trail = Trail::open(&yaml);

    let refused = trail
        .audit
        .announce(&Record::new(Kind::Begin))
        .unwrap()
        .await;

    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("not written within 1 s, or too many wait (sink: http)"),
        "{error}"
    );
    trail.writing.abort();
}

#[tokio::test]
async fn a_full_disk_stops_no_other_sink_but_every_request_where_records_are_required() {
    let folder = Folder::new();
    let path = folder.file("audit.jsonl");
    let sinks = format!(
        "sinks: [{{file: {{path: /dev/full}}}}, {{file: {{path: {}}}}}]",
        path.display()
    );
    let trail = Trail::open(&sinks);
    trail.note(0..10);
    written(&path, "\"request_id\":\"9\"").await;
    trail.writing.abort();
    trail.writing.await.unwrap_err();

    let trail =
        Trail::open("{required: true, required_timeout: 1s, sinks: [{file: {path: /dev/full}}]}");
    let refused = trail
        .audit
        .announce(&Record::new(Kind::Begin))
        .unwrap()
        .await;

    let error = refused.unwrap_err().to_string();
    assert!(error.contains("(sink: file)"), "{error}");
    trail.writing.abort();
}

#[tokio::test]
async fn where_records_are_required_they_are_written_before_anything_happens() {
    let folder = Folder::new();
    let yaml = folder.yaml("") + "\nrequired: true";
    let trail = Trail::open(&yaml);
    let mut record = Record::new(Kind::Begin);
    record.request_id = Some("first");

    trail.audit.announce(&record).unwrap().await.unwrap();

    let text = fs::read_to_string(folder.file("audit.jsonl")).unwrap();
    assert!(text.contains("\"request_id\":\"first\""), "{text}");
    trail.close().await;
}

#[tokio::test]
async fn a_syslog_server_gets_each_record_as_a_message() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let trail = Trail::open(&format!(
        "sinks: [{{syslog: {{address: 'tcp://{address}'}}}}]"
    ));
    trail.note([7]);
    let (mut stream, _) = listener.accept().await.unwrap();
    trail.close().await;

    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();

    let (length, rest) = text.split_once(' ').unwrap();
    let first = &rest[..length.parse().unwrap()];
    assert!(first.starts_with("<110>1 ") && first.contains("\"kind\":\"start\""));
    assert!(text.contains("\"request_id\":\"7\"") && text.ends_with("\"}"));
}

#[tokio::test]
async fn records_are_found_by_who_asked_and_by_their_request() {
    let folder = Folder::new();
    let trail = Trail::open(&folder.yaml(""));
    trail.note(0..5);
    trail.close().await;
    let count = |filter: &Filter| {
        let mut number = 0;
        let found = search(&folder.all(), filter, |_, _| {
            number += 1;
            Ok(())
        });
        found.unwrap();
        number
    };
    let text = |text: &str| Some(text.to_owned());

    for (filter, expected) in [
        (Filter::default(), 7),
        (
            Filter {
                user: text("alice"),
                ..Filter::default()
            },
            5,
        ),
        (
            Filter {
                user: text("user:alice"),
                request_id: text("3"),
                ..Filter::default()
            },
            1,
        ),
        (
            Filter {
                until: Some(jiff::Timestamp::UNIX_EPOCH),
                ..Filter::default()
            },
            0,
        ),
    ] {
        assert_eq!(count(&filter), expected, "{filter:?}");
    }
}
