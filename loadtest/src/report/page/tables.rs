//! The tables of a page.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        errors,
        plot::{escape, number, numbered},
    },
    faults_of,
};
use crate::record::Record;

/// A table. Where it is wider than the page it is scrolled in its place, with the keyboard too.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// What it is for those who hear the page.
    label: &'static str,
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Rows under their heads.
    pub(super) fn new(label: &'static str, heads: &[&str], rows: Vec<Vec<String>>) -> Self {
        Self {
            label,
            heads: heads.iter().map(|it| (*it).to_owned()).collect(),
            rows,
        }
    }

    /// As it stands in the page; nothing for one without rows.
    pub(super) fn html(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let heads = self.heads.iter();
        let heads: String = heads
            .map(|it| format!("<th scope=\"col\">{}</th>", escape(it)))
            .collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!(
            "<div class=\"wide\" role=\"group\" aria-label=\"{}\" tabindex=\"0\"><table><tr>{heads}</tr>{rows}</table></div>",
            self.label
        )
    }
}

/// A row; words that judge are coloured.
fn line(cells: &[String]) -> String {
    let cells = cells.iter().map(|text| {
        let class = match text.as_str() {
            "reached" => " class=\"passed\"",
            "missed" => " class=\"failed\"",
            _ => "",
        };
        format!("<td{class}>{}</td>", escape(text))
    });
    format!("<tr>{}</tr>", cells.collect::<String>())
}

/// Objectives, and whether they were reached.
pub(super) fn verdicts(record: &Record) -> Table {
    let rows = record.verdicts.iter().map(|it| {
        let word = if it.reached { "reached" } else { "missed" };
        let measured = it.measured.map_or("not measured".to_owned(), number);
        vec![it.objective.clone(), measured, word.to_owned()]
    });
    let heads = ["objective", "measured", "verdict"];
    Table::new("Objectives", &heads, rows.collect())
}

/// Each kind of traffic in each phase.
pub(super) fn streams(record: &Record) -> Table {
    let rows = record.streams.iter().map(|it| {
        let (total, latency) = (&it.total, &it.total.latency_ms);
        let counts = if it.warm_up { " (does not count)" } else { "" };
        let figures = [
            total.requests_per_second,
            total.mebibytes_per_second,
            latency.p50,
            latency.p90,
            latency.p99,
            total.longest_ms,
        ];
        let mut row = vec![
            format!("{}: {}{counts}", it.phase, it.kind.name()),
            total.requests.to_string(),
            total.errors().to_string(),
            total.retried.to_string(),
        ];
        row.extend(figures.map(number));
        row
    });
    let heads = [
        "traffic",
        "answered",
        "failed",
        "made again",
        "per s",
        "MiB/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "longest ms",
    ];
    Table::new("Traffic", &heads, rows.collect())
}

/// Faults with the numbers that they have in plots.
pub(super) fn faults(record: &Record) -> Table {
    let names = numbered(faults_of(record));
    let rows = record.marks.iter().map(|mark| {
        let place = names.iter().position(|it| *it == mark.what);
        let what = place.map_or(mark.what.clone(), |it| format!("{}. {}", it + 1, mark.what));
        let second = |at: f64| format!("{} s", number(at));
        vec![what, second(mark.from), second(mark.to)]
    });
    Table::new("Faults", &["fault", "from", "to"], rows.collect())
}

/// Reasons of failures, of requests and of agents.
pub(super) fn failures(record: &Record) -> [Table; 2] {
    let table = |title, reasons: &BTreeMap<String, u64>| {
        let rows = reasons.iter();
        let rows = rows.map(|(what, count)| vec![what.clone(), count.to_string()]);
        Table::new(title, &[title, "times"], rows.collect())
    };
    let agents = "What agents met: connections lost, streams ended, calls refused";
    [
        table("Requests that failed", &errors(record)),
        table(agents, &record.fleet_failures),
    ]
}

/// Figures of all runs, with their ratio to the first.
pub(super) fn side_by_side(records: &[&Record]) -> Table {
    let mut heads = vec!["figure".to_owned()];
    heads.extend(
        records
            .iter()
            .map(|it| format!("{} ({})", it.scenario, it.target)),
    );
    heads.push("ratio to the first".to_owned());
    let names: BTreeSet<_> = records.iter().flat_map(|it| it.figures.keys()).collect();
    let rows = names.into_iter().map(|name| {
        let values = records.iter().map(|it| it.figures.get(name).copied());
        let values: Vec<_> = values.collect();
        let first = values[0].filter(|first| *first != 0.0);
        let shown = |value: Option<f64>| value.map_or("–".to_owned(), number);
        let ratios = values[1..]
            .iter()
            .map(|value| shown(value.zip(first).map(|(value, first)| value / first)));
        let ratios: Vec<_> = ratios.collect();
        let mut row = vec![name.clone()];
        row.extend(values.iter().map(|value| shown(*value)));
        row.push(ratios.join(", "));
        row
    });
    Table {
        label: "Figures of all runs",
        rows: rows.collect(),
        heads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_reached_with_the_keyboard_and_has_its_words_coloured() {
        let rows = vec![vec!["a <b>".to_owned(), "missed".to_owned()]];

        let html = Table::new("Goals", &["goal", "verdict"], rows).html();

        assert!(html.starts_with("<div class=\"wide\" role=\"group\" aria-label=\"Goals\""));
        assert!(html.contains("tabindex=\"0\"") && html.contains("<th scope=\"col\">goal</th>"));
        assert!(html.contains("<td>a &lt;b&gt;</td><td class=\"failed\">missed</td>"));
        assert_eq!(Table::new("Goals", &["goal"], Vec::new()).html(), "");
    }
}
