//! Blocks as Markdown.

use super::{Block, Table};

pub(super) fn block(block: &Block) -> String {
    match block {
        Block::Title(title) => format!("### {}", escape(title)),
        Block::Fields(fields) => {
            let rows = fields.iter().map(|field| [field.label.clone(), field.text.clone()]);
            table(&Table::new(["", ""], 2, []).rows(rows))
        }
        Block::Table(table) => self::table(table),
        Block::Legend(lines) => lines.join("\n"),
        Block::Notes(notes) => fenced(&notes.join("\n")),
    }
}

fn table(table: &Table) -> String {
    let line = |cells: &mut dyn Iterator<Item = String>| {
        format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
    };
    let columns = 0..table.header.len();
    let header = line(&mut columns.clone().map(|column| escape(&table.title(column))));
    let rule = line(
        &mut columns.map(|column| if column < table.names { "---" } else { "---:" }.to_owned()),
    );
    let rows = table.rows.iter().map(|row| line(&mut row.iter().map(|cell| escape(cell.trim()))));
    [header, rule].into_iter().chain(rows).collect::<Vec<_>>().join("\n")
}

/// Keeps the text of a cell from becoming markup or another cell.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => escaped.push(' '),
            '\\' | '|' | '`' | '*' | '_' | '<' | '[' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns the text as it is, in a fence that is longer than any within.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{text}\n{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Blocks, Format};

    #[test]
    fn a_table_has_a_rule_and_cells_that_cannot_leave_it() {
        let rows = [["a|b_c".to_owned(), "1 *".to_owned()]];
        let table = Table::new(["name", "gen.\nCPU %"], 1, []).rows(rows);
        let text = Blocks::default().title("all").table(table).render(Format::Markdown);
        assert_eq!(text, "### all\n\n| name | gen. CPU % |\n| --- | ---: |\n| a\\|b\\_c | 1 \\* |");
    }

    #[test]
    fn notes_are_shown_as_they_are() {
        let notes =
            |note: &str| Blocks::default().notes(vec![note.to_owned()]).render(Format::Markdown);
        assert_eq!(notes("* <b>"), "```text\n* <b>\n```");
        assert_eq!(notes("````"), "`````text\n````\n`````");
    }
}
