//! Models of growth, fitted to what was measured by least squares. Pure.

use super::plot::number;

/// How a figure may grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    /// `a + b·n`: something fixed, and as much again for each.
    Linear,
    /// `n / (a + b·n)`: each of `n` waits `a` for an answer, until the machine has nothing more to give than `1/b`.
    Saturating,
    /// `1 / (a + b·(1 − 1/n))`: work is spread over `n`, so that the part `1 − 1/n` of it takes one step more.
    Spread,
}

/// A model with its two numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fit {
    model: Model,
    /// The `a` of the model.
    pub(crate) start: f64,
    /// The `b` of the model.
    pub(crate) slope: f64,
    /// The part of the variance that the model explains.
    pub(crate) explained: f64,
}

impl Model {
    /// The model through the points, if there are two different ones.
    pub(crate) fn fit(self, points: &[(f64, f64)]) -> Option<Fit> {
        let straight = points.iter().map(|(x, y)| match self {
            Self::Linear => (*x, *y),
            Self::Saturating => (*x, x / y),
            Self::Spread => (1.0 - 1.0 / x, 1.0 / y),
        });
        let (slope, start) = line(&straight.collect::<Vec<_>>())?;
        let mut fit = Fit {
            model: self,
            start,
            slope,
            explained: 0.0,
        };
        let mean = points.iter().map(|(_, y)| y).sum::<f64>() / points.len() as f64;
        let off = |of: &dyn Fn(f64) -> f64| -> f64 {
            points.iter().map(|(x, y)| (y - of(*x)).powi(2)).sum()
        };
        fit.explained = 1.0 - off(&|x| fit.at(x)) / off(&|_| mean).max(f64::MIN_POSITIVE);
        Some(fit)
    }
}

impl Fit {
    /// What the model gives for so many.
    pub(crate) fn at(&self, n: f64) -> f64 {
        match self.model {
            Model::Linear => self.start + self.slope * n,
            Model::Saturating => n / (self.start + self.slope * n),
            Model::Spread => 1.0 / (self.start + self.slope * (1.0 - 1.0 / n)),
        }
    }

    /// The model with its numbers, in this unit for each `n`.
    pub(crate) fn words(&self, unit: &str) -> String {
        let (start, slope) = (self.start, self.slope);
        let model = match self.model {
            Model::Linear => format!("{} + {}·n {unit}", number(start), tiny(slope)),
            Model::Saturating => format!(
                "n / ({} ms + n / {}) {unit}",
                number(start * 1e3),
                number(1.0 / slope)
            ),
            Model::Spread => format!(
                "1 / ({} µs + {} µs·(1 − 1/n)) {unit}",
                number(start * 1e6),
                number(slope * 1e6)
            ),
        };
        format!("{model}, R² {:.3}", self.explained)
    }
}

/// Three digits that count, however small.
fn tiny(value: f64) -> String {
    if value == 0.0 || value.abs() >= 0.1 {
        return number(value);
    }
    let zeros = (-value.abs().log10()).floor() as usize;
    format!("{value:.*}", zeros + 3)
}

/// Slope and start of the line through the points, if there are two different ones.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|it| it.0), mean(|it| it.1));
    let spread: f64 = points.iter().map(|it| (it.0 - x).powi(2)).sum();
    let slope = points.iter().map(|it| (it.0 - x) * (it.1 - y)).sum::<f64>() / spread;
    (spread > 0.0).then_some((slope, y - slope * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_found(model: Model, of: impl Fn(f64) -> f64, start: f64, slope: f64) {
        let points = [1.0, 2.0, 5.0, 10.0].map(|n| (n, of(n)));

        let fit = model.fit(&points).unwrap();

        assert!((fit.start - start).abs() < 1e-9, "{fit:?}");
        assert!((fit.slope - slope).abs() < 1e-9, "{fit:?}");
        assert!((fit.explained - 1.0).abs() < 1e-9, "{fit:?}");
        assert!((fit.at(7.0) - of(7.0)).abs() < 1e-9, "{fit:?}");
    }

    #[test]
    fn each_law_is_found_in_its_own_points() {
        assert_found(Model::Linear, |n| 10.0 + 2.0 * n, 10.0, 2.0);
        assert_found(Model::Saturating, |n| n / (0.2 + 0.05 * n), 0.2, 0.05);
        assert_found(Model::Spread, |n| 1.0 / (3.0 + 1.0 - 1.0 / n), 3.0, 1.0);
    }

    #[test]
    fn one_size_has_no_law_and_noise_is_not_explained() {
        assert!(Model::Linear.fit(&[(1.0, 1.0), (1.0, 2.0)]).is_none());
        assert!(Model::Linear.fit(&[]).is_none());

        let fit = Model::Linear.fit(&[(1.0, 5.0), (2.0, 1.0), (3.0, 5.0)]);

        assert!(fit.unwrap().explained.abs() < 1e-9);
    }

    #[test]
    fn a_law_is_told_with_its_units() {
        let linear = Model::Linear
            .fit(&[(1000.0, 43.0), (2000.0, 76.0)])
            .unwrap();
        let most = Model::Saturating
            .fit(&[(1.0, 500.0), (3.0, 750.0)])
            .unwrap();

        assert_eq!(linear.words("MiB"), "10 + 0.0330·n MiB, R² 1.000");
        assert_eq!(most.words("per s"), "n / (1 ms + n / 1000) per s, R² 1.000");
    }
}
