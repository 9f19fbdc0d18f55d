//! The page: everything in one file, nothing from elsewhere.

use std::{collections::BTreeSet, fmt::Write as _};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sha2::{Digest as _, Sha256};

use super::{
    charts,
    curve::Curve,
    errors,
    headline::headline,
    plot::{Plot, escape, number},
};
use crate::record::Record;

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
pub(crate) fn table(
    title: &str,
    remark: &str,
    heads: &[&str],
    rows: &[Vec<String>],
    curves: &[Curve],
) -> String {
    let cells = |kind: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.map(|cell| format!("<{kind}>{}</{kind}>", escape(cell)));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let heads = cells("th", &mut heads.iter().copied());
    let rows = rows
        .iter()
        .map(|row| cells("td", &mut row.iter().map(String::as_str)));
    let plots = curves.iter().map(|curve| curve.plot().figure());
    format!(
        "{}<section><h1>{}</h1><p>{}</p><table>{heads}{}</table><div class=\"plots\">{}</div></section>{}",
        head(title),
        escape(title),
        escape(remark),
        rows.collect::<String>(),
        plots.collect::<String>(),
        foot()
    )
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
    if records.len() > 1 {
        side_by_side(out, records)?;
    }
    write!(out, "<main style=\"--runs:{}\">", records.len())?;
    for record in records {
        run(out, record)?;
    }
    write!(out, "</main>{}", foot())
}

fn run(out: &mut String, record: &Record) -> std::fmt::Result {
    let (class, verdict) = match record.passed() {
        true => ("passed", "passed"),
        false => ("failed", "failed"),
    };
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
    verdicts(out, record)?;
    streams(out, record)?;
    faults(out, record)?;
    figures(out, "plots", &charts::all(record))?;
    for (title, plots) in charts::of_replicas(record) {
        write!(out, "<h2>{title}</h2>")?;
        figures(out, "plots small", &plots)?;
    }
    failures(out, record)?;
    origin(out, record)?;
    write!(out, "</article>")
}

fn figures(out: &mut String, class: &str, plots: &[Plot]) -> std::fmt::Result {
    let plots: String = plots.iter().map(Plot::figure).collect();
    write!(out, "<div class=\"{class}\">{plots}</div>")
}

/// What was measured, when, and on what.
fn origin(out: &mut String, record: &Record) -> std::fmt::Result {
    let began = i64::try_from(record.began)
        .ok()
        .and_then(|it| jiff::Timestamp::from_second(it).ok());
    let began = began.map_or("unknown".to_owned(), |it| {
        it.strftime("%Y-%m-%d %H:%M UTC").to_string()
    });
    let known = |text: &str| match text {
        "" => "unknown".to_owned(),
        text => escape(text),
    };
    write!(
        out,
        "<footer>{} ({}) · began {began} · {} × {} · loadtest {}</footer>",
        known(&record.version),
        escape(&record.program),
        record.cpus,
        known(&record.cpu),
        env!("CARGO_PKG_VERSION"),
    )
}

fn verdicts(out: &mut String, record: &Record) -> std::fmt::Result {
    if record.verdicts.is_empty() {
        return Ok(());
    }
    write!(
        out,
        "<table><tr><th>objective</th><th>measured</th><th></th></tr>"
    )?;
    for it in &record.verdicts {
        let (class, word) = match it.reached {
            true => ("passed", "reached"),
            false => ("failed", "missed"),
        };
        let measured = it.measured.map_or("not measured".to_owned(), number);
        write!(
            out,
            "<tr><td>{}</td><td>{measured}</td><td class=\"{class}\">{word}</td></tr>",
            escape(&it.objective)
        )?;
    }
    write!(out, "</table>")
}

fn streams(out: &mut String, record: &Record) -> std::fmt::Result {
    if record.streams.is_empty() {
        return Ok(());
    }
    write!(
        out,
        "<table><tr><th>traffic</th><th>answered</th><th>failed</th><th>made again</th><th>per s</th><th>MiB/s</th>\
         <th>p50 ms</th><th>p90</th><th>p99</th><th>longest</th></tr>"
    )?;
    for it in &record.streams {
        let (total, latency) = (&it.total, &it.total.latency_ms);
        write!(
            out,
            "<tr><td>{}: {}{}</td><td>{}</td><td>{}</td><td>{}</td>",
            escape(&it.phase),
            it.kind.name(),
            if it.warm_up { " (does not count)" } else { "" },
            total.requests,
            total.errors(),
            total.retried,
        )?;
        for value in [
            total.requests_per_second,
            total.mebibytes_per_second,
            latency.p50,
            latency.p90,
            latency.p99,
            total.longest_ms,
        ] {
            write!(out, "<td>{}</td>", number(value))?;
        }
        write!(out, "</tr>")?;
    }
    write!(out, "</table>")
}

fn faults(out: &mut String, record: &Record) -> std::fmt::Result {
    if record.marks.is_empty() {
        return Ok(());
    }
    write!(
        out,
        "<table><tr><th>fault</th><th>from</th><th>to</th></tr>"
    )?;
    for mark in &record.marks {
        let what = escape(&mark.what);
        let (from, to) = (number(mark.from), number(mark.to));
        write!(
            out,
            "<tr><td>{what}</td><td>{from} s</td><td>{to} s</td></tr>"
        )?;
    }
    write!(out, "</table>")
}

fn failures(out: &mut String, record: &Record) -> std::fmt::Result {
    let requests = errors(record);
    for (title, reasons) in [
        ("Requests that failed", &requests),
        (
            "What agents met: connections lost, streams ended, calls refused",
            &record.fleet_failures,
        ),
    ] {
        if reasons.is_empty() {
            continue;
        }
        write!(out, "<table><tr><th>{title}</th><th></th></tr>")?;
        for (what, count) in reasons {
            write!(out, "<tr><td>{}</td><td>{count}</td></tr>", escape(what))?;
        }
        write!(out, "</table>")?;
    }
    Ok(())
}

/// Figures of all runs in one table, with their ratio to the first.
fn side_by_side(out: &mut String, records: &[&Record]) -> std::fmt::Result {
    write!(
        out,
        "<section><h1>Side by side</h1><table><tr><th>figure</th>"
    )?;
    for record in records {
        write!(
            out,
            "<th>{} ({})</th>",
            escape(&record.scenario),
            escape(&record.target)
        )?;
    }
    write!(out, "<th>ratio to the first</th></tr>")?;
    let names: BTreeSet<_> = records.iter().flat_map(|it| it.figures.keys()).collect();
    for name in names {
        write!(out, "<tr><td>{}</td>", escape(name))?;
        let values: Vec<_> = records
            .iter()
            .map(|it| it.figures.get(name).copied())
            .collect();
        for value in &values {
            write!(out, "<td>{}</td>", value.map_or("–".to_owned(), number))?;
        }
        let first = values[0].filter(|first| *first != 0.0);
        let ratio = |value: &Option<f64>| match (value, first) {
            (Some(value), Some(first)) => number(value / first),
            _ => "–".to_owned(),
        };
        let ratios: Vec<_> = values[1..].iter().map(ratio).collect();
        write!(out, "<td>{}</td></tr>", ratios.join(", "))?;
    }
    write!(out, "</table></section>")
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
            page.contains(">kill &lt;x&gt;</text>"),
            "faults are named in the picture"
        );
        assert!(page.contains("One in a hundred requests took 4 ms or more"));
        assert!(page.contains("<h2>Memory of each replica</h2>"));
        assert!(page.contains(
            "<footer>kas 1.2, commit abc (kas) · began 1970-01-02 00:00 UTC · 4 × A CPU ·"
        ));
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
