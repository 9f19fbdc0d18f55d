//! One plot as SVG: lines over seconds, with marks for what happened meanwhile; or over something else.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 58.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;
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
}

/// From values to places.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    span: f64,
    over: &'static str,
}

impl Scale {
    fn new(plot: &Plot) -> Self {
        let values = plot.lines.iter().flat_map(|line| &line.points);
        let values = values.map(|(_, value)| *value).filter(|it| it.is_finite());
        let high = values.clone().fold(0.0, f64::max);
        let (low, high) = if plot.logarithmic {
            let low = values.filter(|it| *it > 0.0).fold(f64::INFINITY, f64::min);
            let low = if low.is_finite() { low } else { 1.0 };
            let low = 10_f64.powf(low.log10().floor());
            (low, 10_f64.powf(high.max(low * 1.01).log10().ceil()))
        } else {
            (0.0, round_up(high))
        };
        Self {
            low,
            high,
            logarithmic: plot.logarithmic,
            span: plot.span.max(1.0),
            over: plot.over,
        }
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + (at / self.span).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            value / self.high
        };
        HEIGHT - BOTTOM - part.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }

    fn steps(&self) -> Vec<f64> {
        if !self.logarithmic {
            return (0..=4)
                .map(|step| self.high * f64::from(step) / 4.0)
                .collect();
        }
        let powers = (self.high / self.low).log10().round() as i32;
        (0..=powers)
            .map(|power| self.low * 10_f64.powi(power))
            .collect()
    }
}

/// The next round number: 1, 2 or 5 times a power of ten, or four times that.
fn round_up(value: f64) -> f64 {
    if value.is_nan() || value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let rounds = [1.0, 2.0, 4.0, 5.0, 8.0, 10.0];
    let round = rounds.iter().map(|it| it * power).find(|it| *it >= value);
    round.unwrap_or(10.0 * power)
}

/// A number as short as it stays telling.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        _ if size >= 100.0 => return format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
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
        let title = escape(&self.title);
        write!(
            out,
            "<figure><figcaption>{title} <span>{}</span></figcaption>",
            escape(&self.unit)
        )?;
        if self.lines.iter().all(|line| line.points.is_empty()) {
            return write!(out, "<p class=\"none\">nothing was measured</p></figure>");
        }
        let scale = Scale::new(self);
        write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
        )?;
        self.bands(out, &scale)?;
        grid(out, &scale)?;
        for (place, line) in self.lines.iter().enumerate() {
            path(out, &scale, place, line, self.gap())?;
        }
        write!(out, "</svg><ul>")?;
        for (place, line) in self.lines.iter().enumerate() {
            let peak = line
                .points
                .iter()
                .map(|(_, value)| *value)
                .fold(f64::NAN, f64::max);
            write!(
                out,
                "<li><i class=\"c{}\"></i>{} <span>max {}</span></li>",
                place % COLOURS,
                escape(&line.name),
                number(peak)
            )?;
        }
        write!(out, "</ul></figure>")
    }

    fn bands(&self, out: &mut String, scale: &Scale) -> std::fmt::Result {
        let height = HEIGHT - TOP - BOTTOM;
        for band in &self.bands {
            let (x, end) = (scale.x(band.from), scale.x(band.to));
            write!(
                out,
                "<rect class=\"fault\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{height}\"><title>{}, from {} to {} s</title></rect>",
                (end - x).max(1.5),
                escape(&band.name),
                number(band.from),
                number(band.to)
            )?;
        }
        for (at, name) in &self.ticks {
            let x = scale.x(*at);
            write!(
                out,
                "<line class=\"phase\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"><title>{}</title></line>",
                HEIGHT - BOTTOM,
                escape(name)
            )?;
        }
        Ok(())
    }

    /// Seconds between two points after which the line is broken.
    fn gap(&self) -> f64 {
        (self.span / 40.0).max(4.0)
    }
}

fn grid(out: &mut String, scale: &Scale) -> std::fmt::Result {
    for value in scale.steps() {
        let y = scale.y(value);
        write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            number(value)
        )?;
    }
    for step in 0..=5 {
        let at = scale.span * f64::from(step) / 5.0;
        let anchor = if step == 5 { "end" } else { "middle" };
        write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}{}</text>",
            scale.x(at),
            HEIGHT - 8.0,
            number(if scale.over.is_empty() {
                at
            } else {
                at.round()
            }),
            scale.over
        )?;
    }
    Ok(())
}

fn path(out: &mut String, scale: &Scale, place: usize, line: &Line, gap: f64) -> std::fmt::Result {
    let class = if line.apart { "line dots" } else { "line" };
    write!(out, "<path class=\"{class} c{}\" d=\"", place % COLOURS)?;
    let mut last = f64::NEG_INFINITY;
    for (at, value) in line.points.iter().filter(|(_, value)| value.is_finite()) {
        let (x, y) = (scale.x(*at), scale.y(*value));
        if line.apart || at - last > gap {
            // A point of its own is seen by its round cap.
            write!(out, "M{x:.1} {y:.1}h0")?;
        } else {
            write!(out, "L{x:.1} {y:.1}")?;
        }
        last = *at;
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
    }

    #[test]
    fn an_empty_plot_says_so() {
        assert!(Plot::default().figure().contains("nothing was measured"));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.0123, 1.0, 2.5, 12.34, 1234.5].map(number);

        assert_eq!(shown, ["0", "0.012", "1", "2.5", "12.3", "1234"]);
        assert!((round_up(230.0) - 400.0).abs() < 1e-9);
    }
}
