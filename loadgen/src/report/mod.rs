//! Results for people and for other programs.
//!
//! [`text`] decides what is shown of a document or of a comparison: [`Blocks`] of titles, fields,
//! tables and notes. [`terminal`], [`markdown`] and [`html`] render the same blocks. [`export`]
//! writes the formats of other programs, and [`annotations`] lines that a CI system shows beside a
//! change.

pub(crate) mod annotations;
pub(crate) mod export;
pub(crate) mod html;
mod markdown;
pub(crate) mod terminal;
pub(crate) mod text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Plain text of at most `width` columns. Sentences are whole lines.
    Terminal {
        width: usize,
    },
    Markdown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// A line about the blocks that follow.
    Title(String),
    /// Labels with what there is to say about each.
    Fields(Vec<Field>),
    Table(Table),
    /// Sentences that explain a table.
    Legend(Vec<String>),
    /// Sentences, each a line, about what a reader must know.
    Notes(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// Begins with blanks where the field is a part of the one before.
    pub(crate) label: String,
    /// Words, or figures with their units between commas.
    pub(crate) text: String,
}

impl Field {
    pub(crate) fn new(label: impl Into<String>, text: impl Into<String>) -> Self {
        Self { label: label.into(), text: text.into() }
    }
}

/// Rows of cells below a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Names of the columns, each in one or two lines.
    header: Vec<String>,
    /// Columns of names, at the left. The others have figures, which are aligned to the right.
    names: usize,
    /// Columns that a narrow terminal does without, the least important first.
    optional: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<S: Into<String>>(
        header: impl IntoIterator<Item = S>,
        names: usize,
        optional: impl Into<Vec<usize>>,
    ) -> Self {
        let header = header.into_iter().map(Into::into).collect();
        Self { header, names, optional: optional.into(), rows: Vec::new() }
    }

    pub(crate) fn rows<R: Into<Vec<String>>>(mut self, rows: impl IntoIterator<Item = R>) -> Self {
        self.rows.extend(rows.into_iter().map(Into::into));
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn title(&self, column: usize) -> String {
        self.header[column].trim().replace('\n', " ")
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks(Vec<Block>);

impl Blocks {
    pub(crate) fn title(mut self, title: impl Into<String>) -> Self {
        self.0.push(Block::Title(title.into()));
        self
    }

    /// Adds fields, if there are some. The same holds for all parts that follow.
    pub(crate) fn fields(mut self, fields: Vec<Field>) -> Self {
        self.0.extend((!fields.is_empty()).then_some(Block::Fields(fields)));
        self
    }

    pub(crate) fn table(mut self, table: Table) -> Self {
        self.0.extend((!table.is_empty()).then_some(Block::Table(table)));
        self
    }

    pub(crate) fn legend(mut self, lines: Vec<String>) -> Self {
        self.0.extend((!lines.is_empty()).then_some(Block::Legend(lines)));
        self
    }

    pub(crate) fn notes(mut self, notes: Vec<String>) -> Self {
        self.0.extend((!notes.is_empty()).then_some(Block::Notes(notes)));
        self
    }

    pub(crate) fn then(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Returns the text, without a newline at its end.
    pub(crate) fn render(&self, format: Format) -> String {
        let parts = self.0.iter().map(|block| match format {
            Format::Terminal { width } => terminal::block(block, width),
            Format::Markdown => markdown::block(block),
        });
        let mut text = String::new();
        for (part, before) in parts.zip(std::iter::once(None).chain(self.0.iter().map(Some))) {
            text.push_str(match (before, format) {
                (None, _) => "",
                (Some(Block::Title(_)), Format::Terminal { .. }) => "\n",
                (Some(_), _) => "\n\n",
            });
            text.push_str(&part);
        }
        text
    }
}
