//! From values to places in a plot, and numbers as they stand at its axes. Pure.

use super::Plot;

/// Of one of many beside each other, and of one that has names in it.
const SMALL: Size = Size {
    width: 280.0,
    height: 120.0,
    left: 42.0,
    top: 18.0,
};
const LARGE: Size = Size {
    width: 430.0,
    height: 240.0,
    left: 46.0,
    top: 42.0,
};
const RIGHT: f64 = 8.0;
const BOTTOM: f64 = 22.0;

/// The picture, in pixels where it is shown as large as it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) width: f64,
    pub(super) height: f64,
    /// Where the axis of values is.
    pub(super) left: f64,
    /// Where values end; above are the unit and names.
    pub(super) top: f64,
}

impl Size {
    pub(super) fn right(self) -> f64 {
        self.width - RIGHT
    }

    pub(super) fn bottom(self) -> f64 {
        self.height - BOTTOM
    }
}

/// From values to places.
#[derive(Debug)]
pub(super) struct Scale {
    pub(super) size: Size,
    low: f64,
    high: f64,
    logarithmic: bool,
    pub(super) span: f64,
}

impl Scale {
    pub(super) fn new(plot: &Plot) -> Self {
        let values = plot.lines.iter().flat_map(|line| &line.points);
        let values = values.map(|(_, value)| *value).filter(|it| it.is_finite());
        let high = values.clone().fold(plot.at_least, f64::max);
        let (low, high) = if plot.logarithmic {
            let low = values.filter(|it| *it > 0.0).fold(f64::INFINITY, f64::min);
            let low = if low.is_finite() { low } else { 1.0 };
            let low = 10_f64.powf(low.log10().floor());
            (low, 10_f64.powf(high.max(low * 1.01).log10().ceil()))
        } else {
            (0.0, round_up(high))
        };
        Self {
            size: if plot.small { SMALL } else { LARGE },
            low,
            high,
            logarithmic: plot.logarithmic,
            span: plot.span.max(1.0),
        }
    }

    pub(super) fn x(&self, at: f64) -> f64 {
        self.size.left + (at / self.span).clamp(0.0, 1.0) * (self.size.right() - self.size.left)
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            value / self.high
        };
        self.size.bottom() - part.clamp(0.0, 1.0) * (self.size.bottom() - self.size.top)
    }

    /// Values that have a number at the axis.
    pub(super) fn steps(&self, count: u32) -> Vec<f64> {
        if !self.logarithmic {
            let steps = (0..=count).map(f64::from);
            return steps
                .map(|step| self.high * step / f64::from(count))
                .collect();
        }
        let powers = (self.high / self.low).log10().round() as i32;
        (0..=powers)
            .map(|power| self.low * 10_f64.powi(power))
            .collect()
    }

    /// Twice to nine times a power of ten, by which one sees that an axis is logarithmic.
    pub(super) fn between(&self) -> Vec<f64> {
        if !self.logarithmic {
            return Vec::new();
        }
        let powers = self.steps(0);
        let decades = &powers[..powers.len().saturating_sub(1)];
        let between = decades
            .iter()
            .flat_map(|power| (2..=9).map(move |times| power * f64::from(times)));
        between.collect()
    }
}

/// The next round number: 1, 2, 4, 5 or 8 times a power of ten.
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

/// A number at an axis, where there is little room.
pub(super) fn brief(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", number(value / 1e6)),
        size if size >= 1e4 => format!("{}k", number(value / 1e3)),
        _ => number(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.0123, 1.0, 2.5, 12.34, 1234.5].map(number);

        assert_eq!(shown, ["0", "0.012", "1", "2.5", "12.3", "1234"]);
        assert_eq!([9_999.0, 1e5, 2.5e6].map(brief), ["9999", "100k", "2.5M"]);
        assert!((round_up(230.0) - 400.0).abs() < 1e-9);
    }

    #[test]
    fn a_logarithmic_axis_has_powers_of_ten_and_what_is_between() {
        let plot = Plot {
            lines: vec![super::super::Line {
                points: vec![(0.0, 2.0), (1.0, 300.0)],
                ..Default::default()
            }],
            logarithmic: true,
            ..Plot::default()
        };
        let scale = Scale::new(&plot);

        assert_eq!(scale.steps(4), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(scale.between().len(), 24);
    }
}
