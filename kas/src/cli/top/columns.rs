//! Columns as wide as what is in them, fewer of them where the terminal is narrow.

use ratatui::text::Span;

/// Between two columns.
pub(super) const GAP: u16 = 2;
/// What the column that takes the rest has at least.
const REST_MIN: u16 = 16;

/// A column of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) head: &'static str,
    /// Those with the highest rank are left out first where there is no room, or nothing in them; those of rank 0
    /// never.
    rank: u8,
    width: Width,
}

#[derive(Debug, Clone, Copy)]
enum Width {
    /// What is in it, up to this.
    Content(u16),
    /// The same, cut to what the others leave.
    Rest,
}

impl Column {
    pub(super) const fn new(head: &'static str, rank: u8, max: u16) -> Self {
        Self {
            head,
            rank,
            width: Width::Content(max),
        }
    }

    pub(super) const fn rest(head: &'static str, rank: u8) -> Self {
        Self {
            head,
            rank,
            width: Width::Rest,
        }
    }

    fn wanted(&self, at: usize, rows: &[Vec<String>]) -> u16 {
        let cells = rows.iter().filter_map(|row| row.get(at));
        let cells = cells.map(|cell| cell.as_str()).chain([self.head]);
        let widest = cells.map(|cell| Span::raw(cell).width()).max();
        let widest = widest.and_then(|it| u16::try_from(it).ok());
        match self.width {
            Width::Content(max) => widest.unwrap_or(max).min(max),
            Width::Rest => widest.unwrap_or(u16::MAX),
        }
    }
}

/// Which columns are shown in so many cells, by their places, and how wide.
pub(super) fn fit(columns: &[Column], rows: &[Vec<String>], width: u16) -> Vec<(usize, u16)> {
    let is_empty = |at: usize| {
        rows.iter()
            .all(|row| row.get(at).is_none_or(String::is_empty))
    };
    let mut chosen: Vec<_> = columns
        .iter()
        .enumerate()
        .filter(|(at, column)| column.rank == 0 || !is_empty(*at))
        .map(|(at, column)| (at, column.wanted(at, rows)))
        .collect();
    let is_rest = |at: usize| matches!(columns[at].width, Width::Rest);
    let others = |chosen: &[(usize, u16)]| {
        let gaps = u16::try_from(chosen.len())
            .unwrap_or(u16::MAX)
            .saturating_sub(1);
        let widths = chosen.iter().filter(|(at, _)| !is_rest(*at));
        widths.fold(gaps.saturating_mul(GAP), |sum, (_, it)| {
            sum.saturating_add(*it)
        })
    };
    let needed = |chosen: &[(usize, u16)]| {
        let rest = chosen.iter().filter(|(at, _)| is_rest(*at));
        let rest = rest.map(|(_, wanted)| (*wanted).min(REST_MIN)).sum::<u16>();
        others(chosen).saturating_add(rest)
    };
    while needed(&chosen) > width {
        let last = chosen.iter().map(|(at, _)| columns[*at].rank).max();
        let Some(last) = last.filter(|rank| *rank > 0) else {
            break;
        };
        // Of several the one to the right.
        let at = chosen.iter().rposition(|(at, _)| columns[*at].rank == last);
        at.map(|at| chosen.remove(at));
    }
    let left = width.saturating_sub(others(&chosen));
    for (at, wanted) in &mut chosen {
        if is_rest(*at) {
            *wanted = (*wanted).min(left.max(1));
        }
    }
    chosen
}

/// A text in so many cells; what is cut is said.
pub(super) fn cut(text: &str, width: u16) -> String {
    if Span::raw(text).width() <= usize::from(width) {
        return text.to_owned();
    }
    let mut all = String::new();
    for letter in text.chars() {
        all.push(letter);
        if Span::raw(&*all).width() >= usize::from(width) {
            all.pop();
            break;
        }
    }
    all.push('…');
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::new("ID", 0, 8),
        Column::rest("NAME", 0),
        Column::new("VERSION", 2, 10),
        Column::new("PROBLEM", 1, 40),
    ];

    fn rows(problem: &str) -> Vec<Vec<String>> {
        let row = ["7", "a-name-of-twenty-four-ch", "v1.2.3-very-long", problem];
        vec![row.map(str::to_owned).to_vec()]
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_left_out_where_nothing_is() {
        assert_eq!(fit(&COLUMNS, &rows(""), 80), [(0, 2), (1, 24), (2, 10)]);
        assert_eq!(
            fit(&COLUMNS, &rows("gone"), 80),
            [(0, 2), (1, 24), (2, 10), (3, 7)]
        );
    }

    #[test]
    fn where_it_is_narrow_the_name_is_cut_and_then_columns_go() {
        assert_eq!(fit(&COLUMNS, &rows(""), 34), [(0, 2), (1, 18), (2, 10)]);
        assert_eq!(fit(&COLUMNS, &rows(""), 30), [(0, 2), (1, 24)]);
        assert_eq!(fit(&COLUMNS, &rows(""), 5), [(0, 2), (1, 1)]);
        assert_eq!(cut("a-name", 6), "a-name");
        assert_eq!(cut("a-name", 4), "a-n…");
        assert_eq!(cut("名前です", 5), "名前…");
    }
}
