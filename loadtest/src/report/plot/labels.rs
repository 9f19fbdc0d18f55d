//! Names of phases and faults in a plot: what happened is read where it happened. Pure.

use std::fmt::Write as _;

use super::{Plot, escape, number, scale::Scale};

/// Width of a letter, where the style has its letters largest: on a telephone and in print.
const LETTER: f64 = 6.5;
/// Where the names of phases and of faults stand.
const PHASES: f64 = 24.0;
const FAULTS: f64 = 37.0;
/// Where numbers of faults stand in a small plot, and how far apart they are at least.
const NUMBERS: f64 = 13.0;
const NUMBER_WIDTH: f64 = 10.0;
/// Fewer letters than that, with a number before them, say nothing.
const LEAST_LETTERS: usize = 4;

/// Bands of faults, beginnings of phases, and the names of both.
pub(super) fn write(out: &mut String, plot: &Plot, scale: &Scale) -> std::fmt::Result {
    bands(out, plot, scale)?;
    let mut phases = plot.ticks.clone();
    phases.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (at, name) in &phases {
        let x = scale.x(*at);
        write!(
            out,
            "<line class=\"phase\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"><title>{}</title></line>",
            scale.size.top,
            scale.size.bottom(),
            escape(name)
        )?;
    }
    if plot.small {
        return numbers(out, plot, scale);
    }
    let phases = phases.iter().map(|(at, name)| Label {
        at: *at,
        name,
        number: None,
    });
    names(out, scale, &phases.collect::<Vec<_>>(), PHASES, "name")?;
    let mut faults = faults(plot);
    // What happens again and again is named once.
    faults.dedup_by(|(next, _), (before, _)| next.name == before.name);
    let faults: Vec<_> = faults.into_iter().map(|(label, _)| label).collect();
    names(out, scale, &faults, FAULTS, "name bad")
}

/// A name, and where it begins.
#[derive(Debug)]
struct Label<'a> {
    at: f64,
    name: &'a str,
    /// Before the name; where there is no room for both, alone.
    number: Option<usize>,
}

/// Faults in the order of their beginnings, each with its end.
fn faults(plot: &Plot) -> Vec<(Label<'_>, f64)> {
    let names = numbered(plot.bands.iter().map(|it| (it.from, it.name.as_str())));
    let faults = plot.bands.iter().map(|band| {
        let place = names.iter().position(|it| *it == band.name);
        let label = Label {
            at: band.from,
            name: &band.name,
            number: place.map(|it| it + 1),
        };
        (label, band.to)
    });
    let mut faults: Vec<_> = faults.collect();
    faults.sort_by(|(a, _), (b, _)| a.at.total_cmp(&b.at));
    faults
}

/// The names of faults in the order in which they first began, each once: the first one is number 1.
pub(in crate::report) fn numbered<'a>(
    faults: impl Iterator<Item = (f64, &'a str)>,
) -> Vec<&'a str> {
    let mut faults: Vec<_> = faults.collect();
    faults.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut names = Vec::new();
    for (_, name) in faults {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Which fault it was, over the middle of each band, where there is no room for its name.
fn numbers(out: &mut String, plot: &Plot, scale: &Scale) -> std::fmt::Result {
    let mut last = f64::NEG_INFINITY;
    for (fault, to) in faults(plot) {
        let x = f64::midpoint(scale.x(fault.at), scale.x(to));
        let Some(number) = fault.number else {
            continue;
        };
        if x - last < NUMBER_WIDTH {
            continue;
        }
        last = x;
        write!(
            out,
            "<text class=\"name bad\" x=\"{x:.1}\" y=\"{NUMBERS}\" text-anchor=\"middle\"><title>{}</title>{}</text>",
            escape(fault.name),
            number
        )?;
    }
    Ok(())
}

fn bands(out: &mut String, plot: &Plot, scale: &Scale) -> std::fmt::Result {
    let (top, height) = (scale.size.top, scale.size.bottom() - scale.size.top);
    for band in &plot.bands {
        let (x, end) = (scale.x(band.from), scale.x(band.to));
        write!(
            out,
            "<rect class=\"fault\" x=\"{x:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{height}\"><title>{}, from {} to {} s</title></rect>",
            (end - x).max(1.5),
            escape(&band.name),
            number(band.from),
            number(band.to)
        )?;
    }
    Ok(())
}

/// Each as far as the next one, or cut, or its number.
fn names(
    out: &mut String,
    scale: &Scale,
    names: &[Label<'_>],
    y: f64,
    class: &str,
) -> std::fmt::Result {
    for (place, label) in names.iter().enumerate() {
        let next = names.get(place + 1).map(|next| scale.x(next.at));
        let (x, end) = (scale.x(label.at), next.unwrap_or(scale.size.width));
        let whole = label.number.map_or(label.name.to_owned(), |number| {
            format!("{number} {}", label.name)
        });
        let number = || label.number.filter(|_| end - x >= NUMBER_WIDTH);
        let text = fitting(&whole, end - x - 8.0).or_else(|| Some(number()?.to_string()));
        let Some(text) = text else {
            continue;
        };
        write!(
            out,
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{y}\"><title>{}</title>{}</text>",
            x + 2.0,
            escape(label.name),
            escape(&text)
        )?;
    }
    Ok(())
}

/// As much of a name as there is room for.
fn fitting(name: &str, width: f64) -> Option<String> {
    let room = (width / LETTER).max(0.0) as usize;
    if name.chars().count() <= room {
        return Some(name.to_owned());
    }
    let cut = |room: usize| name.chars().take(room - 1).collect::<String>() + "…";
    (room >= LEAST_LETTERS).then(|| cut(room))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::plot::Band;

    /// A fault of one second.
    fn band(name: &str, from: f64) -> Band {
        Band {
            name: name.to_owned(),
            from,
            to: from + 1.0,
        }
    }

    #[test]
    fn names_are_cut_to_their_room() {
        assert_eq!(fitting("cut", 30.0).as_deref(), Some("cut"));
        assert_eq!(fitting("cut of agents", 40.0).as_deref(), Some("cut o…"));
        assert_eq!(fitting("cut of agents", 10.0), None);
    }

    #[test]
    fn faults_are_numbered_by_when_they_first_began() {
        let faults = [(9.0, "kill"), (2.0, "cut"), (12.0, "cut"), (5.0, "freeze")];

        assert_eq!(numbered(faults.into_iter()), ["cut", "freeze", "kill"]);
    }

    #[test]
    fn a_name_without_room_gives_way_to_its_number() {
        let plot = Plot {
            bands: vec![band("freeze", 3.0), band("kill", 4.0)],
            span: 30.0,
            ..Plot::default()
        };
        let mut out = String::new();

        write(&mut out, &plot, &Scale::new(&plot)).expect("writing to a string");

        assert!(out.contains("<title>freeze</title>1</text>"), "{out}");
        assert!(out.contains("<title>kill</title>2 kill</text>"), "{out}");
    }

    #[test]
    fn small_plots_have_numbers_for_names_and_none_over_another() {
        let plot = Plot {
            bands: vec![band("kill", 20.0), band("cut", 5.0), band("cut", 5.5)],
            span: 30.0,
            small: true,
            ..Plot::default()
        };
        let mut out = String::new();

        write(&mut out, &plot, &Scale::new(&plot)).expect("writing to a string");

        assert_eq!(out.matches("<rect").count(), 3);
        assert_eq!(out.matches("</title>1</text>").count(), 1, "{out}");
        assert_eq!(out.matches("</title>2</text>").count(), 1, "{out}");
        assert!(out.contains("<title>kill</title>2</text>"));
    }
}
