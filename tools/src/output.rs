//! What goes to standard output: text for people, or JSON for programs.

use std::{
    fmt,
    io::{self, BufWriter, IsTerminal, Stdout, Write},
};

use serde::Serialize;

/// Standard output, in one of its two forms. Nothing else writes to it.
pub(crate) struct Output {
    writer: BufWriter<Stdout>,
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { writer: BufWriter::with_capacity(64 << 10, io::stdout()), json }
    }

    /// Whether JSON was asked for.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person looks at standard output directly.
    pub(crate) fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    /// Writes a line of text.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(self.writer, "{text}")
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// Writes one JSON document over several lines.
    pub(crate) fn document(&mut self, document: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.writer, document)?;
        self.writer.write_all(b"\n")
    }

    /// Writes one JSON document on one line.
    pub(crate) fn json_line(&mut self, document: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.writer, document)?;
        self.writer.write_all(b"\n")
    }

    /// The document in JSON, or the text.
    pub(crate) fn show(&mut self, document: &impl Serialize, text: impl fmt::Display) -> io::Result<()> {
        if self.json { self.document(document) } else { self.line(text) }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Where the text of a column goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Text in aligned columns under their names.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
    indent: usize,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), indent: 0 }
    }

    /// Every line begins with `indent` spaces.
    pub(crate) fn indented(mut self, indent: usize) -> Self {
        self.indent = indent;
        self
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize, name: &str| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).chain([name.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(|(i, (name, _))| width(i, name)).collect();
        let names: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        for (number, row) in std::iter::once(&names).chain(&self.rows).enumerate() {
            let mut line = " ".repeat(self.indent);
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => line.push_str(&format!("{cell:<width$}  ")),
                    Align::Right => line.push_str(&format!("{cell:>width$}  ")),
                }
            }
            let end = if number < self.rows.len() { "\n" } else { "" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Names and values below a heading.
pub(crate) struct Section {
    heading: &'static str,
    fields: Vec<(&'static str, String)>,
}

impl Section {
    pub(crate) const fn new(heading: &'static str) -> Self {
        Self { heading, fields: Vec::new() }
    }

    /// Adds a field; one without a value is left out.
    pub(crate) fn field(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        if !value.is_empty() {
            self.fields.push((name, value));
        }
        self
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.heading)?;
        for (name, value) in &self.fields {
            write!(f, "\n  {name:<20} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_space() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)]).indented(1);
        table.row(vec!["a".into(), "1".into()]);
        table.row(vec!["bücher".into(), "100".into()]);
        assert_eq!(table.to_string(), " NAME      N\n a         1\n bücher  100");
        assert_eq!(Table::new(&[("X", Align::Left)]).to_string(), "X");
    }

    #[test]
    fn a_section_leaves_out_what_is_unknown() {
        let section = Section::new("Limits").field("queues", 4).field("serial", "");
        assert_eq!(section.to_string(), "Limits\n  queues               4");
    }
}
