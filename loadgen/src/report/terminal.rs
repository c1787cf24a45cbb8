//! Blocks as text that fits the width at hand.

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};

use super::{Block, Field, Table};

/// Width of text where no terminal says another.
pub(crate) const USUAL_WIDTH: usize = 80;
/// A name is not cut to less than this.
const SHORTEST_NAME: usize = 8;
const CUT: char = '…';

const LABEL: usize = 10;

/// Returns a block in at most `width` columns. Sentences of notes are never broken, so that they
/// can be searched for.
pub(super) fn block(block: &Block, width: usize) -> String {
    match block {
        Block::Title(title) => wrapped_figures(title, width, 2),
        Block::Fields(fields) => {
            let label =
                fields.iter().map(|field| field.label.chars().count()).fold(LABEL, usize::max);
            fields.iter().map(|one| field(one, label, width)).collect::<Vec<_>>().join("\n")
        }
        Block::Table(table) => text(table, width),
        Block::Legend(lines) | Block::Notes(lines) => lines.join("\n"),
    }
}

fn field(Field { label, text }: &Field, columns: usize, width: usize) -> String {
    let (line, indent) = (format!("  {label:<columns$} {text}"), columns + 3);
    let broken = wrapped_figures(line.trim_end(), width, indent);
    // Words without figures have no better place to break.
    if width_of(&broken) <= width { broken } else { wrapped(line.trim_end(), width, indent) }
}

/// Returns a table without lines around its cells, to be copied into text. Where it is wider than
/// `width` it has fewer columns, which are named below it: a wrapped line of figures cannot be
/// read.
fn text(table: &Table, width: usize) -> String {
    let mut table = table.clone();
    let (mut left_out, mut text) = (Vec::new(), drawn(&table, &[]));
    let whole = width_of(&text);
    for &column in &table.optional {
        if width_of(&text) <= width {
            break;
        }
        left_out.push(column);
        text = drawn(&table, &left_out);
    }
    // What must not be left out is cut, a column at a time and the widest first.
    for _ in 0..table.names {
        let excess = width_of(&text).saturating_sub(width);
        if excess == 0 {
            break;
        }
        cut_widest(&mut table, excess, &left_out);
        text = drawn(&table, &left_out);
    }
    if left_out.is_empty() {
        return text;
    }
    let names: Vec<String> = left_out.iter().map(|&column| table.title(column)).collect();
    let names = names.join(", ");
    let note = format!("not shown in {width} columns: {names} (COLUMNS={whole} has all)");
    format!("{text}\n{}", wrapped(&note, width, 2))
}

fn drawn(table: &Table, left_out: &[usize]) -> String {
    let shown = |cells: &[String]| {
        let cells = cells.iter().enumerate().filter(|(column, _)| !left_out.contains(column));
        cells.map(|(_, cell)| cell.clone()).collect::<Vec<_>>()
    };
    let mut grid = Grid::new();
    grid.load_style(presets::NOTHING);
    grid.set_content_arrangement(ContentArrangement::Disabled);
    grid.set_header(shown(&table.header));
    grid.add_rows(table.rows.iter().map(|row| shown(row)));
    let names = (0..table.names).filter(|column| !left_out.contains(column)).count();
    for (index, column) in grid.column_iter_mut().enumerate() {
        column.set_padding(if index == 0 { (0, 1) } else { (1, 1) });
        if index >= names {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    grid.trim_fmt()
}

/// Shortens the cells of the widest column of names by `excess`, as far as that goes.
fn cut_widest(table: &mut Table, excess: usize, left_out: &[usize]) {
    let width =
        |column: usize| table.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let columns = (0..table.names).filter(|column| !left_out.contains(column));
    let Some(column) = columns.max_by_key(|&column| width(column)) else { return };
    let most = width(column).saturating_sub(excess).max(SHORTEST_NAME);
    for row in &mut table.rows {
        if row[column].chars().count() > most {
            row[column] = row[column].chars().take(most - 1).chain([CUT]).collect();
        }
    }
}

fn width_of(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// Breaks lines of more than `width` columns between words. The lines that follow begin with
/// `indent` blanks.
pub(crate) fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let lines = text.lines().map(|line| wrapped_line(line, width, indent, |_, _| true));
    lines.collect::<Vec<_>>().join("\n")
}

/// Breaks a line of figures between its parts, so that a figure stays with its name and its unit.
fn wrapped_figures(line: &str, width: usize, indent: usize) -> String {
    wrapped_line(line, width, indent, |before, after| {
        before.ends_with("  ")
            || before.trim_end().ends_with([',', ';', ':', '='])
            || after.starts_with('(')
    })
}

/// Breaks a line where `may_break` allows it between what stands before and after a blank.
fn wrapped_line(
    line: &str,
    width: usize,
    indent: usize,
    may_break: impl Fn(&str, &str) -> bool,
) -> String {
    let blanks = line.match_indices(' ').map(|(at, _)| at + 1);
    let starts = blanks.filter(|&at| !line[at..].starts_with(' ') && !line[..at].trim().is_empty());
    let ends: Vec<usize> =
        starts.filter(|&at| may_break(&line[..at], &line[at..])).chain([line.len()]).collect();
    let (mut text, mut column, mut begin) = (String::new(), 0, 0);
    for end in ends {
        let piece = &line[begin..end];
        let length = piece.trim_end().chars().count();
        if begin > 0 && column + length > width && column > indent {
            text.truncate(text.trim_end().len());
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = indent;
        }
        text.push_str(piece);
        column += piece.chars().count();
        begin = end;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let rows = [["a-name-of-some-length", "1,000", "99"].map(str::to_owned)];
        Table::new(["name", "\nmsg/s", "gen.\nCPU %"], 1, [2]).rows(rows)
    }

    #[test]
    fn leaves_out_the_least_important_column() {
        assert!(!text(&table(), 80).contains("not shown"));
        let text = super::text(&table(), 31);
        assert!(text.contains("1,000") && !text.contains("99\n"), "{text}");
        assert!(
            text.contains("not shown in 31 columns: gen.\n  CPU % (COLUMNS=35 has all)"),
            "{text}"
        );
    }

    #[test]
    fn cuts_names_where_nothing_can_be_left_out() {
        let text = super::text(&table(), 20);
        assert!(text.lines().all(|line| line.chars().count() <= 20), "{text}");
        assert!(text.contains("a-name-of-so… "), "{text}");
    }

    #[test]
    fn wraps_between_words_and_indents() {
        assert_eq!(
            wrapped("  label one two three", 13, 8),
            "  label one\n        two\n        three"
        );
        assert_eq!(wrapped("no_place_to_break", 5, 2), "no_place_to_break");
        assert_eq!(wrapped("fits", 5, 2), "fits");
    }

    #[test]
    fn figures_stay_with_their_names_and_units() {
        let line = "  latency    p50 100 us  p99 150 us  max 9.0 ms";
        let broken = "  latency    p50 100 us  p99\n             150 us";
        assert_ne!(wrapped_figures(line, 30, 13), broken);
        assert_eq!(
            wrapped_figures(line, 36, 13),
            "  latency    p50 100 us  p99 150 us\n             max 9.0 ms"
        );
    }
}
