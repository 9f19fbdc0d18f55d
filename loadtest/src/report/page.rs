//! The page: everything in one file, nothing from elsewhere.

mod tables;

use std::fmt::Write as _;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sha2::{Digest as _, Sha256};

use super::{
    charts,
    curve::Curve,
    headline::headline,
    plot::{Plot, escape, numbered},
};
use crate::{origin::Origin, record::Record};
use tables::Table;

const STYLE: &str = include_str!("style.css");
/// Shows values under the pointer; all else is there without it.
const SCRIPT: &str = include_str!("page.js");

/// One run, or several side by side, as HTML.
pub(crate) fn page(records: &[&Record]) -> String {
    let mut out = String::new();
    write(&mut out, records).expect("writing to a string cannot fail");
    out
}

/// A page with one table, and curves under it.
#[derive(Debug)]
pub(crate) struct Sheet<'a> {
    pub(crate) title: &'a str,
    /// What it came to, in one sentence.
    pub(crate) headline: &'a str,
    /// Whether that is good.
    pub(crate) passed: bool,
    pub(crate) remark: &'a str,
    pub(crate) heads: &'a [&'a str],
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) curves: &'a [Curve],
    pub(crate) origin: &'a Origin,
}

impl Sheet<'_> {
    /// The page as HTML.
    pub(crate) fn page(self) -> String {
        let (class, _) = verdict(self.passed);
        let plots = self.curves.iter().map(|curve| curve.plot().figure());
        format!(
            "{}<main><section><h1>{}</h1><p class=\"headline {class}\">{}</p><p>{}</p>{}\
             <div class=\"plots\">{}</div>{}</section></main>{}",
            head(self.title),
            escape(self.title),
            escape(self.headline),
            escape(self.remark),
            Table::new("Figures", self.heads, self.rows).html(),
            plots.collect::<String>(),
            footer(self.origin),
            foot()
        )
    }
}

/// Class and word.
fn verdict(passed: bool) -> (&'static str, &'static str) {
    match passed {
        true => ("passed", "passed"),
        false => ("failed", "failed"),
    }
}

fn head(title: &str) -> String {
    let script = BASE64_STANDARD.encode(Sha256::digest(SCRIPT));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         img-src data:; script-src 'sha256-{script}'\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <link rel=\"icon\" href=\"data:,\"><title>{}</title><style>{STYLE}</style></head><body>",
        escape(title)
    )
}

/// The script comes last, when what it looks for is there.
fn foot() -> String {
    format!("<script>{SCRIPT}</script></body></html>\n")
}

fn write(out: &mut String, records: &[&Record]) -> std::fmt::Result {
    let names: Vec<_> = records.iter().map(|it| it.scenario.as_str()).collect();
    out.push_str(&head(&names.join(", ")));
    write!(out, "<main style=\"--runs:{}\">", records.len())?;
    if records.len() > 1 {
        let table = tables::side_by_side(records).html();
        write!(out, "<section><h1>Side by side</h1>{table}</section>")?;
    }
    for record in records {
        run(out, record)?;
    }
    write!(out, "</main>{}", foot())
}

fn run(out: &mut String, record: &Record) -> std::fmt::Result {
    let (class, verdict) = verdict(record.passed());
    write!(
        out,
        "<article><header><h1>{} <b class=\"{class}\">{verdict}</b></h1><p class=\"headline {class}\">{}</p><p>{}</p>\
         <p class=\"facts\">{}: {} agents, {} replicas, {:.0} s on {} CPUs that all processes share</p>",
        escape(&record.scenario),
        escape(&headline(record)),
        escape(&record.about),
        escape(&record.target),
        record.agents,
        record.replicas,
        record.seconds,
        record.cpus,
    )?;
    write!(out, "</header>")?;
    for table in [tables::verdicts, tables::streams, tables::faults] {
        out.push_str(&table(record).html());
    }
    figures(out, "plots", &charts::all(record))?;
    let of_replicas = charts::of_replicas(record);
    if !of_replicas.is_empty() {
        key(out, record)?;
    }
    for (title, plots) in of_replicas {
        write!(out, "<h2>{title}</h2>")?;
        figures(out, "plots small", &plots)?;
    }
    for table in tables::failures(record) {
        out.push_str(&table.html());
    }
    write!(out, "{}</article>", footer(&record.origin()))
}

/// When faults began, and what they were.
fn faults_of(record: &Record) -> impl Iterator<Item = (f64, &str)> {
    record.marks.iter().map(|it| (it.from, it.what.as_str()))
}

/// What the numbers of faults mean, where plots are too small for names.
fn key(out: &mut String, record: &Record) -> std::fmt::Result {
    let names = numbered(faults_of(record));
    if names.is_empty() {
        return Ok(());
    }
    write!(out, "<p class=\"key\">Faults in small plots:")?;
    for (number, name) in (1..).zip(names) {
        write!(out, " <span><b>{number}</b> {}</span>", escape(name))?;
    }
    write!(out, "</p>")
}

fn figures(out: &mut String, class: &str, plots: &[Plot]) -> std::fmt::Result {
    let plots: String = plots.iter().map(Plot::figure).collect();
    write!(out, "<div class=\"{class}\">{plots}</div>")
}

/// What was measured, when, by what, and on what.
fn footer(origin: &Origin) -> String {
    let began = i64::try_from(origin.began)
        .ok()
        .and_then(|it| jiff::Timestamp::from_second(it).ok());
    let began = began.map_or("unknown".to_owned(), |it| {
        it.strftime("%Y-%m-%d %H:%M UTC").to_string()
    });
    let known = |text: &str| match text {
        "" => "unknown".to_owned(),
        text => escape(text),
    };
    let programs = origin.programs.iter();
    let programs =
        programs.map(|(version, place)| format!("{} ({})", known(version), escape(place)));
    format!(
        "<footer>{} · began {began} · {} × {} · loadtest {}</footer>",
        programs.collect::<Vec<_>>().join(" · "),
        origin.cpus,
        known(&origin.cpu),
        known(&origin.loadtest),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::{Mark, Sample, Span, Usage},
        scenario::Verdict,
    };

    fn record(name: &str) -> Record {
        let usage = Usage {
            cpu_ms: 1.0,
            resident_kib: 2048,
            files: 10,
        };
        let sample = |at| Sample {
            at,
            processes: [("replica 1".to_owned(), usage)].into(),
            ..Sample::default()
        };
        Record {
            scenario: name.to_owned(),
            target: "kas".to_owned(),
            agents: 1,
            program: "kas".to_owned(),
            version: "kas 1.2, commit abc".to_owned(),
            began: 86_400,
            cpus: 4,
            cpu: "A CPU".to_owned(),
            loadtest: "1.2, commit def".to_owned(),
            seconds: 2.0,
            empty_kib: [("replica 1".to_owned(), 1)].into(),
            phases: vec![Span {
                name: "a & b".into(),
                from: 0.0,
                to: 2.0,
                warm_up: false,
                idle: false,
            }],
            marks: vec![Mark {
                what: "kill <x>".into(),
                from: 1.0,
                to: 1.5,
            }],
            samples: vec![sample(0.0), sample(1.0), sample(2.0)],
            figures: [("p99_ms".to_owned(), 4.0)].into(),
            verdicts: vec![Verdict {
                objective: "p99_ms ≤ 3".into(),
                limit: 3.0,
                measured: Some(4.0),
                reached: false,
            }],
            ..Record::default()
        }
    }

    /// Every element is closed in order, and nothing comes from elsewhere.
    fn assert_well_formed(page: &str) {
        let mut open = Vec::new();
        let body = page.split("</style>").nth(1).unwrap();
        let body = body.replace(SCRIPT, "");
        for tag in body.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("tags end");
            let name = tag.split([' ', '/']).next().unwrap_or_default();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed), "in {tag}");
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "not closed: {open:?}");
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
    }

    #[test]
    fn a_page_is_well_formed_and_stands_alone() {
        let page = page(&[&record("one <b>")]);

        let body = page.replacen("</head>", "", 1).replacen("</html>", "", 1);
        assert_well_formed(&body);
        assert!(page.contains("one &lt;b&gt;") && page.contains("kill &lt;x&gt;"));
        assert!(page.contains("missed") && page.contains("<svg"));
        assert!(
            page.contains(">1 kill &lt;x&gt;</text>"),
            "faults are named in the picture"
        );
        assert!(page.contains("One in a hundred requests took 4 ms or more"));
        assert!(page.contains("<h2>Memory of each replica</h2>"));
        assert!(page.contains(
            "<footer>kas 1.2, commit abc (kas) · began 1970-01-02 00:00 UTC · 4 × A CPU · \
             loadtest 1.2, commit def</footer>"
        ));
    }

    #[test]
    fn faults_are_told_apart_in_small_plots_by_numbers() {
        let page = page(&[&record("one")]);

        assert!(page.contains("<span><b>1</b> kill &lt;x&gt;</span>"));
        assert!(page.contains("<td>1. kill &lt;x&gt;</td>"));
        assert!(page.contains("</title>1</text>"), "the number in the plot");
    }

    #[test]
    fn a_sheet_says_what_it_came_to_and_where_it_is_from() {
        let origin = Origin {
            programs: vec![
                ("kas 1.2".into(), "kas".into()),
                (String::new(), "<go-kas>".into()),
            ],
            loadtest: "1.2, commit def".into(),
            ..Origin::default()
        };
        let sheet = Sheet {
            title: "both",
            headline: "Goals missed: a & b.",
            passed: false,
            remark: "",
            heads: &["figure"],
            rows: vec![vec!["a & b".into()]],
            curves: &[],
            origin: &origin,
        };

        let page = sheet.page();

        let body = page.replacen("</head>", "", 1).replacen("</html>", "", 1);
        assert_well_formed(&body);
        assert!(page.contains("<p class=\"headline failed\">Goals missed: a &amp; b.</p>"));
        assert!(
            page.contains("<footer>kas 1.2 (kas) · unknown (&lt;go-kas&gt;) · began 1970-01-01")
        );
        assert!(page.contains("loadtest 1.2, commit def</footer>"));
    }

    #[test]
    fn only_the_script_of_the_page_may_run() {
        let page = page(&[&record("one")]);
        let hash = BASE64_STANDARD.encode(Sha256::digest(SCRIPT));

        assert_eq!(page.matches("<script>").count(), 1);
        assert!(page.contains(&format!("script-src 'sha256-{hash}'")));
        assert!(!SCRIPT.contains("</"));
    }

    #[test]
    fn runs_are_laid_side_by_side_with_their_ratio() {
        let (first, mut second) = (record("first"), record("second"));
        second.figures.insert("p99_ms".to_owned(), 10.0);

        let page = page(&[&first, &second]);

        assert!(page.contains("<td>p99_ms</td><td>4</td><td>10</td><td>2.5</td>"));
        assert_eq!(page.matches("<article>").count(), 2);
    }
}
