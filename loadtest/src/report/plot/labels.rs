//! Names of phases and faults in a plot: what happened is read where it happened. Pure.

use std::fmt::Write as _;

use super::{Plot, escape, number, scale::Scale};

/// Width of a letter, in the style's size of letters.
const LETTER: f64 = 5.9;
/// Where the names of phases and of faults stand.
const PHASES: f64 = 24.0;
const FAULTS: f64 = 37.0;
/// Fewer letters than that say nothing.
const LEAST_LETTERS: usize = 3;

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
        return Ok(());
    }
    names(out, scale, &phases, PHASES, "name")?;
    let mut faults: Vec<_> = plot
        .bands
        .iter()
        .map(|it| (it.from, it.name.clone()))
        .collect();
    faults.sort_by(|a, b| a.0.total_cmp(&b.0));
    // What happens again and again is named once.
    faults.dedup_by(|next, before| next.1 == before.1);
    names(out, scale, &faults, FAULTS, "name bad")
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

/// Each as far as the next one, or cut.
fn names(
    out: &mut String,
    scale: &Scale,
    names: &[(f64, String)],
    y: f64,
    class: &str,
) -> std::fmt::Result {
    for (place, (at, name)) in names.iter().enumerate() {
        let next = names.get(place + 1).map(|(at, _)| scale.x(*at));
        let (x, end) = (scale.x(*at), next.unwrap_or(scale.size.width));
        let Some(text) = fitting(name, end - x - 8.0) else {
            continue;
        };
        write!(
            out,
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{y}\"><title>{}</title>{}</text>",
            x + 2.0,
            escape(name),
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

    #[test]
    fn names_are_cut_to_their_room() {
        assert_eq!(fitting("cut", 30.0).as_deref(), Some("cut"));
        assert_eq!(fitting("cut of agents", 40.0).as_deref(), Some("cut o…"));
        assert_eq!(fitting("cut of agents", 10.0), None);
    }
}
