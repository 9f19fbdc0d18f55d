//! One plot as SVG: lines over seconds, with marks for what happened meanwhile; or over something else.

mod labels;
mod scale;

use std::fmt::Write as _;

pub(super) use labels::numbered;
pub(crate) use scale::number;

use scale::{Scale, brief};

/// Colours that are told apart by the colour-blind too, as classes of the page's style.
const COLOURS: usize = 8;

/// A line.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub(super) name: String,
    /// Seconds and values. A gap in time is a gap in the line.
    pub(super) points: Vec<(f64, f64)>,
    /// The points are not joined.
    pub(super) apart: bool,
}

/// Something that happened from one second to another.
#[derive(Debug, Clone)]
pub(super) struct Band {
    pub(super) name: String,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// A plot.
#[derive(Debug, Clone, Default)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) lines: Vec<Line>,
    /// Faults.
    pub(super) bands: Vec<Band>,
    /// Beginnings of phases.
    pub(super) ticks: Vec<(f64, String)>,
    /// How far it goes to the right.
    pub(super) span: f64,
    /// The unit of what it goes over, as it stands behind a number.
    pub(super) over: &'static str,
    /// Powers of ten, for what spans many.
    pub(super) logarithmic: bool,
    /// What it goes over, where `over` is empty.
    pub(super) across: &'static str,
    /// One of many beside each other: smaller, with numbers for names of faults.
    pub(super) small: bool,
    /// How far up it goes at least, for plots that are to be compared.
    pub(super) at_least: f64,
    /// The colour of the first line.
    pub(super) colour: usize,
}

/// Text as it may stand in HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, it| {
            match it {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                _ => out.push(it),
            }
            out
        })
}

impl Plot {
    /// The plot with its title and legend.
    pub(super) fn figure(&self) -> String {
        let mut out = String::new();
        self.write(&mut out)
            .expect("writing to a string cannot fail");
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let (title, unit) = (escape(&self.title), escape(&self.unit));
        write!(
            out,
            "<figure><figcaption>{title} <span>{unit}</span> <output></output></figcaption>"
        )?;
        if self.lines.iter().all(|line| line.points.is_empty()) {
            return write!(out, "<p class=\"none\">nothing was measured</p></figure>");
        }
        let scale = Scale::new(self);
        let size = scale.size;
        write!(
            out,
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" tabindex=\"0\" aria-label=\"{title}, {unit}\" \
             data-width=\"{}\" data-left=\"{}\" data-right=\"{}\" data-span=\"{}\" data-gap=\"{}\" data-over=\"{}\">",
            size.width,
            size.height,
            size.width,
            size.left,
            size.right(),
            scale.span,
            self.gap(),
            self.over
        )?;
        labels::write(out, self, &scale)?;
        self.axes(out, &scale)?;
        for (place, line) in self.lines.iter().enumerate() {
            path(out, &scale, self.class(place), line, self.gap())?;
        }
        write!(
            out,
            "<line class=\"cross\" y1=\"{}\" y2=\"{}\"/></svg><ul>",
            size.top,
            size.bottom()
        )?;
        for (place, line) in self.lines.iter().enumerate() {
            let values = line.points.iter().map(|(_, value)| *value);
            let most = values.filter(|it| it.is_finite()).reduce(f64::max);
            write!(
                out,
                "<li><i class=\"c{}\"></i>{} <span>{}</span></li>",
                self.class(place),
                escape(&line.name),
                most.map_or("–".to_owned(), |it| format!("max {}", number(it)))
            )?;
        }
        write!(out, "</ul></figure>")
    }

    fn class(&self, place: usize) -> usize {
        (self.colour + place) % COLOURS
    }

    /// Lines and numbers at both axes, with their units.
    fn axes(&self, out: &mut String, scale: &Scale) -> std::fmt::Result {
        let size = scale.size;
        let mut level = |class: &str, value: f64| {
            let y = scale.y(value);
            write!(
                out,
                "<line class=\"{class}\" x1=\"{}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                size.left,
                size.right()
            )
            .map(|()| y)
        };
        for value in scale.between() {
            level("grid minor", value)?;
        }
        let steps = scale.steps(if self.small { 2 } else { 4 });
        let levels = steps
            .into_iter()
            .map(|value| Ok((value, level("grid", value)?)))
            .collect::<Result<Vec<_>, std::fmt::Error>>()?;
        for (value, y) in levels {
            write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                size.left - 5.0,
                y + 4.0,
                brief(value)
            )?;
        }
        let scaled = if self.logarithmic {
            ", logarithmic"
        } else {
            ""
        };
        // A small one has the unit in its caption only: faults have their numbers there.
        if !self.small {
            write!(
                out,
                "<text class=\"unit\" x=\"2\" y=\"11\">{}{scaled}</text>",
                escape(&self.unit)
            )?;
        }
        self.ticks(out, scale, if self.small { 2 } else { 4 })
    }

    fn ticks(&self, out: &mut String, scale: &Scale, count: u32) -> std::fmt::Result {
        for step in 0..=count {
            let at = scale.span * f64::from(step) / f64::from(count);
            let anchor = if step == count { "end" } else { "middle" };
            let (shown, across) = match (self.over.is_empty(), step == count) {
                (true, true) => (number(at), self.across),
                (true, false) => (number(at), ""),
                (false, _) => (number(at.round()), ""),
            };
            write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{shown}{}{}{across}</text>",
                scale.x(at),
                scale.size.height - 7.0,
                self.over,
                if across.is_empty() { "" } else { " " },
            )?;
        }
        Ok(())
    }

    /// Seconds between two points after which the line is broken.
    fn gap(&self) -> f64 {
        (self.span / 40.0).max(4.0)
    }
}

fn path(out: &mut String, scale: &Scale, class: usize, line: &Line, gap: f64) -> std::fmt::Result {
    let kind = if line.apart { "line dots" } else { "line" };
    let points = || line.points.iter().filter(|(_, value)| value.is_finite());
    write!(out, "<path class=\"{kind} c{class}\" d=\"")?;
    let mut last = f64::NEG_INFINITY;
    for (at, value) in points() {
        let (x, y) = (scale.x(*at), scale.y(*value));
        if line.apart || at - last > gap {
            // A point of its own is seen by its round cap.
            write!(out, "M{x:.1} {y:.1}h0")?;
        } else {
            write!(out, "L{x:.1} {y:.1}")?;
        }
        last = *at;
    }
    write!(out, "\" data-points=\"")?;
    for (place, (at, value)) in points().enumerate() {
        let before = if place > 0 { " " } else { "" };
        write!(out, "{before}{} {}", number(*at), number(*value))?;
    }
    write!(out, "\"><title>{}</title></path>", escape(&line.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_lines_marks_and_legend() {
        let plot = Plot {
            title: "a <b>".into(),
            lines: vec![Line {
                name: "p99".into(),
                points: vec![(0.0, 1.0), (1.0, 30.0), (30.0, 2.0)],
                apart: false,
            }],
            bands: vec![Band {
                name: "cut".into(),
                from: 1.0,
                to: 1.0,
            }],
            ticks: vec![(0.0, "quiet".into())],
            unit: "ms".into(),
            span: 30.0,
            over: " s",
            logarithmic: true,
            ..Plot::default()
        };

        let figure = plot.figure();

        assert!(figure.contains("a &lt;b&gt;") && !figure.contains("<b>"));
        assert_eq!(figure.matches("<rect").count(), 1);
        assert_eq!(
            figure.matches('M').count(),
            2,
            "a gap breaks the line: {figure}"
        );
        assert!(figure.contains("max 30") && !figure.contains("NaN"));
        assert!(figure.contains(">1 cut</text>") && figure.contains(">quiet</text>"));
        assert!(figure.contains(">ms, logarithmic</text>") && figure.contains("30 s</text>"));
        assert!(figure.contains("data-points=\"0 1 1 30 30 2\""));
    }

    #[test]
    fn a_line_without_points_has_no_maximum() {
        let plot = Plot {
            lines: vec![
                Line {
                    name: "short".into(),
                    points: vec![(0.0, 1.0)],
                    apart: false,
                },
                Line {
                    name: "exec".into(),
                    ..Line::default()
                },
            ],
            ..Plot::default()
        };

        let figure = plot.figure();

        assert!(figure.contains("short <span>max 1</span>"), "{figure}");
        assert!(figure.contains("exec <span>–</span>"), "{figure}");
    }

    #[test]
    fn an_empty_plot_says_so() {
        assert!(Plot::default().figure().contains("nothing was measured"));
    }
}
