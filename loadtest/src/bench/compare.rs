//! `loadtest bench-compare`: two products on one machine in one run, as ratios.

mod figures;
mod rows;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{
    Bench,
    curves::{Curves, drawn},
};
use crate::{
    origin::Origin,
    output,
    report::{Curve, Sheet},
    topology::{Product, beside},
};
use rows::ROWS;

/// Our kas and agentk against GitLab's.
#[derive(Debug, Clone, Args)]
// The options of a benchmark, which are among these, have the name of this struct too; clap wants each name once.
#[group(skip)]
pub(crate) struct Options {
    /// GitLab's kas.
    #[arg(long, env = "GO_KAS")]
    go_kas: PathBuf,
    /// GitLab's agentk.
    #[arg(long, env = "GO_AGENTK")]
    go_agentk: PathBuf,
    /// How often everything is measured; the medians count.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// The page to write; the figures go beside it as JSON.
    #[arg(long, default_value = "target/reports/bench-compare.html")]
    report: PathBuf,
    #[command(flatten)]
    bench: super::Options,
}

/// Medians by name.
type Figures = BTreeMap<String, f64>;

/// What was measured, and how it compares.
#[derive(Debug, Serialize)]
struct Comparison {
    #[serde(flatten)]
    origin: Origin,
    repeats: usize,
    agents: usize,
    ours: Figures,
    go: Figures,
    our_curves: Option<Curves>,
    go_curves: Option<Curves>,
}

/// Measures both in turns, prints the table of ratios and writes the report.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let (kas, agentk) = (
        beside(options.bench.kas.as_deref(), "kas")?,
        beside(options.bench.agentk.as_deref(), "agentk")?,
    );
    let origin = Origin::of(&[&kas, &agentk, &options.go_kas, &options.go_agentk]).await;
    let (mut ours, mut go) = (Vec::new(), Vec::new());
    for repeat in 1..=options.repeats.max(1) {
        output::progress(&format!("repeat {repeat} of {}", options.repeats));
        ours.push(measured(&options, Product::Kas).await?);
        go.push(measured(&options, Product::GoKas).await?);
    }
    let comparison = Comparison {
        origin,
        repeats: options.repeats,
        agents: options.bench.agents,
        ours: figures::medians(&ours),
        go: figures::medians(&go),
        our_curves: curves(&options, Product::Kas).await?,
        go_curves: curves(&options, Product::GoKas).await?,
    };
    comparison.write(&options.report)?;
    output::line(&comparison.table());
    output::line(&format!("report: {}", options.report.display()));
    Ok(())
}

async fn measured(options: &Options, product: Product) -> anyhow::Result<Figures> {
    let bench = bench(options, product).await?;
    let measured = bench.measure().await;
    let report = bench.end(measured).await.with_context(|| product.name())?;
    Ok(figures::of(&report))
}

/// Curves are drawn once: what their points scatter, the laws through them even out.
async fn curves(options: &Options, product: Product) -> anyhow::Result<Option<Curves>> {
    let bench = bench(options, product).await?;
    let measured = bench.curves().await;
    bench.end(measured).await.with_context(|| product.name())
}

async fn bench(options: &Options, product: Product) -> anyhow::Result<Bench> {
    let mut chosen = options.bench.clone();
    if product == Product::GoKas {
        chosen.kas = Some(options.go_kas.clone());
    }
    // Everything is repeated here.
    chosen.bodies = 1;
    output::progress(product.name());
    let mut bench = Bench::new(chosen, product).await?;
    bench.go_agentk = Some(options.go_agentk.clone());
    Ok(bench)
}

impl Comparison {
    fn write(&self, page: &Path) -> anyhow::Result<()> {
        if let Some(folder) = page.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let json = page.with_extension("json");
        std::fs::write(&json, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("cannot write {}", json.display()))?;
        let cells: Vec<_> = self.cells().collect();
        let (headline, passed) = rows::headline(&cells);
        let sheet = Sheet {
            title: "kas and GitLab's kas, side by side",
            headline: &headline,
            passed,
            remark: &self.remark(),
            heads: &rows::TITLES,
            rows: cells.into_iter().map(Vec::from).collect(),
            curves: &self.curves(),
            origin: &self.origin,
        };
        std::fs::write(page, sheet.page())
            .with_context(|| format!("cannot write {}", page.display()))
    }

    fn remark(&self) -> String {
        format!(
            "Medians of {} repeats, {} idle agents; clients, servers and agents share {} CPUs. \
             Ratios count, absolute figures are for this machine only.",
            self.repeats, self.agents, self.origin.cpus
        )
    }

    fn cells(&self) -> impl Iterator<Item = [String; 6]> {
        ROWS.iter().map(|row| row.cells(&self.ours, &self.go))
    }

    fn curves(&self) -> Vec<Curve> {
        let both = [("ours", &self.our_curves), ("GitLab's", &self.go_curves)];
        let measured = both
            .iter()
            .filter_map(|(who, it)| Some((*who, it.as_ref()?)));
        let measured: Vec<_> = measured.collect();
        if measured.is_empty() {
            return Vec::new();
        }
        drawn(&measured)
    }

    /// The table as Markdown, and the laws under it.
    fn table(&self) -> String {
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let titles = rows::TITLES.map(str::to_owned);
        let rule = titles.iter().map(|_| "---".to_owned()).collect::<Vec<_>>();
        let mut lines = vec![self.remark(), String::new(), line(&titles), line(&rule)];
        lines.extend(self.cells().map(|cells| line(&cells)));
        lines.push(String::new());
        lines.extend(self.curves().iter().map(Curve::words));
        lines.join("\n")
    }
}
