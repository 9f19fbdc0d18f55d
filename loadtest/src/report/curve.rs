//! What was measured at several sizes, with the model fitted to it, as plots and as text. Pure.

use super::{
    fit::{Fit, Model},
    plot::{Line, Plot},
};

/// Points of the plotted model.
const STEPS: u32 = 100;

/// One figure at several sizes, of one or more who are compared.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    /// What there is more of to the right.
    pub(crate) across: &'static str,
    pub(crate) model: Model,
    /// Who, and what was measured at which size.
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Curve {
    fn fits(&self) -> impl Iterator<Item = (&str, &[(f64, f64)], Option<Fit>)> {
        let lines = self.lines.iter();
        lines.map(|(who, points)| (who.as_str(), points.as_slice(), self.model.fit(points)))
    }

    fn most(&self) -> f64 {
        let points = self.lines.iter().flat_map(|(_, points)| points);
        points.map(|(x, _)| *x).fold(1.0, f64::max)
    }

    /// Measured points, and the model as a line.
    pub(super) fn plot(&self) -> Plot {
        let mut lines = Vec::new();
        for (who, points, fit) in self.fits() {
            lines.push(Line {
                name: format!("{who}, measured"),
                points: points.to_vec(),
                apart: true,
            });
            lines.extend(fit.map(|fit| Line {
                name: format!("{who}: {}", fit.words(self.unit)),
                points: self.along(&fit, points),
                apart: false,
            }));
        }
        Plot {
            title: self.title.clone(),
            unit: self.unit.to_owned(),
            lines,
            across: self.across,
            span: self.most(),
            ..Plot::default()
        }
    }

    /// The model from the first measured size to the last.
    fn along(&self, fit: &Fit, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let first = points.iter().map(|(x, _)| *x).fold(self.most(), f64::min);
        let step = (self.most() - first) / f64::from(STEPS);
        let places = (0..=STEPS).map(|place| first + step * f64::from(place));
        places.map(|x| (x, fit.at(x))).collect()
    }

    /// The models as an item of a list for each who.
    pub(crate) fn words(&self) -> String {
        let model = |(who, _, fit): (&str, _, Option<Fit>)| {
            let words = fit.map_or("not measured".to_owned(), |fit| fit.words(self.unit));
            format!("- {}, n = {}; {who}: {words}", self.title, self.across)
        };
        self.fits().map(model).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_shows_what_was_measured_and_its_law() {
        let curve = Curve {
            title: "memory".into(),
            unit: "MiB",
            across: "agents",
            model: Model::Linear,
            lines: vec![("ours".into(), vec![(1000.0, 43.0), (2000.0, 76.0)])],
        };

        let figure = curve.plot().figure();

        assert_eq!(
            curve.words(),
            "- memory, n = agents; ours: 10 + 0.0330·n MiB, R² 1.000"
        );
        assert!(figure.contains("ours, measured") && figure.contains("10 + 0.0330·n MiB"));
        assert_eq!(
            figure.matches('M').count() - figure.matches("MiB").count(),
            3,
            "two points and one line: {figure}"
        );
    }
}
