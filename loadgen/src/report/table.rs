//! A table as data: columns and rows, whatever shows them.

/// Rows of cells below a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Names of the columns, each in one or two lines.
    pub(super) header: Vec<String>,
    /// Columns of names, at the left. The others have figures, which are aligned to the right.
    pub(super) names: usize,
    /// Columns that a narrow terminal does without, the least important first.
    pub(super) optional: Vec<usize>,
    pub(super) rows: Vec<Vec<String>>,
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

    pub(super) fn title(&self, column: usize) -> String {
        self.header[column].trim().replace('\n', " ")
    }
}
