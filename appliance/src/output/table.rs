//! Columns under headings.

use std::fmt;

use super::text::escaped;

/// Characters of a cell that are shown: text may come from elsewhere, and a column is as wide as its widest cell.
const CELL_CHARS_MAX: usize = 1000;

/// A table; every row has as many cells as there are headings.
#[derive(Debug)]
pub(crate) struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; one that begins with `>` has its column aligned to the right.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let headings = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { right, rows: vec![headings] }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[&str]) {
        self.rows.push(cells.iter().map(|cell| shown(cell)).collect());
    }

    /// The table, or, when it has no row, a sentence: a heading over nothing leaves people waiting for the rest.
    pub(crate) fn or(&self, nothing: &str) -> String {
        if self.rows.len() > 1 { self.to_string() } else { format!("{nothing}\n") }
    }

    fn widths(&self) -> Vec<usize> {
        let column =
            |index: usize| self.rows.iter().filter_map(move |row| row.get(index)).map(|cell| cell.chars().count());
        (0..self.right.len()).map(|index| column(index).max().unwrap_or(0)).collect()
    }
}

/// A cell as it is shown: on its line, and not wider than is good.
fn shown(cell: &str) -> String {
    let cell = escaped(cell);
    if cell.chars().count() <= CELL_CHARS_MAX {
        return cell.into_owned();
    }
    cell.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).zip(&self.right).map(|((cell, width), right)| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_is_too_wide_is_cut() {
        let mut table = Table::new(&["TAG", "NAME"]);
        table.row(&[&"x".repeat(70_000), "a"]);
        table.row(&[&"y".repeat(CELL_CHARS_MAX), "b"]);
        let shown = table.to_string();
        let rows: Vec<&str> = shown.lines().collect();
        assert_eq!(rows[1], format!("{}…  a", "x".repeat(CELL_CHARS_MAX - 1)));
        assert_eq!(rows[2], format!("{}  b", "y".repeat(CELL_CHARS_MAX)));
    }

    #[test]
    fn a_cell_forges_no_row() {
        let mut table = Table::new(&[">MARKER", "TAG"]);
        table.row(&["7", "x\n9  all is well\u{1b}[1A"]);
        assert_eq!(table.to_string(), "MARKER  TAG\n     7  x\\n9  all is well\\u{1b}[1A\n");
    }

    #[test]
    fn a_table_without_a_row_is_a_sentence() {
        let mut table = Table::new(&["NAME"]);
        assert_eq!(table.or("there are none"), "there are none\n");
        table.row(&["a"]);
        assert_eq!(table.or("there are none"), "NAME\na\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">SIZE", "GROUP"]);
        table.row(&["a", "1 GiB", "g"]);
        table.row(&["pg-data", "512 MiB", "-"]);
        assert_eq!(table.to_string(), "NAME        SIZE  GROUP\na          1 GiB  g\npg-data  512 MiB  -\n");
    }
}
