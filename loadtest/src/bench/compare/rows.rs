//! The table of ratios: what is compared with what, and how far we mean to get.

use super::Figures;
use crate::report::number;

/// Heads of the columns.
pub(super) const TITLES: [&str; 6] = ["figure", "GitLab's", "ours", "ratio", "to reach", "verdict"];

/// One line of the table.
#[derive(Debug)]
pub(super) struct Row {
    name: &'static str,
    ours: &'static str,
    go: &'static str,
    /// More is better.
    more: bool,
    goal: Goal,
}

/// When a line is good enough.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// Better by so many times.
    Times(f64),
    /// At most so much.
    AtMost(f64),
}

const fn less(name: &'static str, both: &'static str, goal: Goal) -> Row {
    Row {
        name,
        ours: both,
        go: both,
        more: false,
        goal,
    }
}

const fn more(name: &'static str, ours: &'static str, go: &'static str, times: f64) -> Row {
    Row {
        name,
        ours,
        go,
        more: true,
        goal: Goal::Times(times),
    }
}

/// All lines.
pub(super) const ROWS: &[Row] = &[
    less(
        "resident KiB per idle agent, ws",
        "ws.fresh",
        Goal::Times(5.0),
    ),
    less(
        "resident KiB per idle agent, wss",
        "wss.fresh",
        Goal::Times(4.4),
    ),
    less(
        "the same, ws, after traffic and three reconnects",
        "ws.worn",
        Goal::AtMost(55.0),
    ),
    less(
        "CPU ms per idle agent and minute",
        "ws.cpu",
        Goal::AtMost(0.05),
    ),
    less(
        "seconds to accept all agents, wss",
        "wss.ready",
        Goal::AtMost(5.0),
    ),
    less(
        "CPU µs of kas to accept an agent, wss",
        "wss.accept",
        Goal::Times(5.0),
    ),
    less(
        "CPU µs per request, owner, 64 clients, simulated agent",
        "simulated.direct.64.cpu",
        Goal::Times(9.0),
    ),
    less(
        "CPU µs per request, two replicas, 64 clients",
        "simulated.forwarded.64.cpu",
        Goal::Times(8.0),
    ),
    less(
        "p50 ms, one client, GitLab's agentk behind both",
        "go-agentk.direct.1.p50",
        Goal::Times(3.0),
    ),
    less(
        "p99 ms, one client, GitLab's agentk behind both",
        "go-agentk.direct.1.p99",
        Goal::Times(3.0),
    ),
    Row {
        name: "p50 ms, one client, each with its own agentk",
        ours: "agentk.direct.1.p50",
        go: "go-agentk.direct.1.p50",
        more: false,
        goal: Goal::Times(8.0),
    },
    Row {
        name: "p99 ms, one client, each with its own agentk",
        ours: "agentk.direct.1.p99",
        go: "go-agentk.direct.1.p99",
        more: false,
        goal: Goal::Times(8.0),
    },
    more(
        "requests/s, 64 clients, each with its own agentk",
        "agentk.direct.64.rate",
        "go-agentk.direct.64.rate",
        10.0,
    ),
    more(
        "MiB/s of a 200 MiB body, each with its own agentk",
        "agentk.direct.bulk",
        "go-agentk.direct.bulk",
        5.0,
    ),
    more(
        "MiB/s of a 200 MiB body, GitLab's agentk behind both",
        "go-agentk.direct.bulk",
        "go-agentk.direct.bulk",
        1.3,
    ),
    less(
        "Redis commands to connect an agent",
        "redis.connect",
        Goal::AtMost(2.0),
    ),
    less(
        "Redis commands per request",
        "redis.request",
        Goal::AtMost(0.0),
    ),
    less(
        "Redis commands a second and replica at rest",
        "redis.second",
        Goal::AtMost(1.0),
    ),
];

impl Row {
    pub(super) fn cells(&self, ours: &Figures, go: &Figures) -> [String; 6] {
        let (ours, go) = (ours.get(self.ours), go.get(self.go));
        let ratio = ours.zip(go).map(|(ours, go)| self.times(*ours, *go));
        let shown = |value: Option<&f64>| value.map_or("–".to_owned(), |value| number(*value));
        let goal = match self.goal {
            Goal::Times(times) => format!("{} ×", number(times)),
            Goal::AtMost(limit) => format!("≤ {}", number(limit)),
        };
        let reached = match (self.goal, ours, ratio) {
            (Goal::Times(times), _, Some(ratio)) => Some(ratio >= times),
            // A twentieth is noise.
            (Goal::AtMost(limit), Some(ours), _) => Some(*ours <= limit * 1.05 + 0.005),
            (Goal::Times(_), _, None) | (Goal::AtMost(_), None, _) => None,
        };
        let word = match reached {
            Some(true) => "reached",
            Some(false) => "missed",
            None => "not measured",
        };
        let ratio = match ratio {
            Some(ratio) if ratio.is_finite() => format!("{} ×", number(ratio)),
            Some(_) | None => "–".to_owned(),
        };
        [
            self.name.to_owned(),
            shown(go),
            shown(ours),
            ratio,
            goal,
            word.to_owned(),
        ]
    }

    /// How many times better ours is.
    fn times(&self, ours: f64, go: f64) -> f64 {
        if self.more { ours / go } else { go / ours }
    }
}

/// What the table came to, in one sentence, and whether that is good.
pub(super) fn headline(cells: &[[String; 6]]) -> (String, bool) {
    let of = |word: &str| {
        let rows = cells.iter().filter(move |row| row[5] == word);
        rows.map(|row| row[0].as_str()).collect::<Vec<_>>()
    };
    let (reached, missed, rest) = (of("reached"), of("missed"), of("not measured"));
    let measured = reached.len() + missed.len();
    let mut sentence = format!("Goals reached: {} of {measured}", reached.len());
    if !missed.is_empty() {
        sentence += &format!("; missed: {}", missed.join("; "));
    }
    if !rest.is_empty() {
        sentence += &format!("; not measured: {}", rest.len());
    }
    (sentence + ".", missed.is_empty() && measured > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_how_many_times_better_ours_is() {
        let row = less("memory", "a", Goal::Times(5.0));
        let figures = |value: f64| Figures::from([("a".to_owned(), value)]);

        assert_eq!(
            row.cells(&figures(20.0), &figures(150.0)),
            ["memory", "150", "20", "7.5 ×", "5 ×", "reached"]
        );
        assert_eq!(row.cells(&figures(50.0), &figures(150.0))[5], "missed");
        assert_eq!(row.cells(&Figures::new(), &figures(1.0))[5], "not measured");
    }

    #[test]
    fn the_headline_names_what_was_missed() {
        let row = |name: &str, word: &str| {
            let mut cells: [String; 6] = Default::default();
            cells[0] = name.to_owned();
            cells[5] = word.to_owned();
            cells
        };
        let all = [
            row("a", "reached"),
            row("b", "missed"),
            row("c", "not measured"),
        ];

        assert_eq!(
            headline(&all).0,
            "Goals reached: 1 of 2; missed: b; not measured: 1."
        );
        assert_eq!(
            headline(&all[..1]),
            ("Goals reached: 1 of 1.".to_owned(), true)
        );
        assert!(!headline(&all[..2]).1, "one was missed");
        assert!(!headline(&all[2..]).1, "nothing was measured");
    }

    #[test]
    fn limits_count_where_a_ratio_would_say_nothing() {
        let row = less("commands", "a", Goal::AtMost(0.0));
        let figures = |value: f64| Figures::from([("a".to_owned(), value)]);

        let cells = row.cells(&figures(0.0), &figures(4.0));

        assert_eq!((&*cells[3], &*cells[5]), ("–", "reached"));
    }
}
