//! What is wrong with a configuration, and where.
//!
//! A problem names the file, line and column, the key by its path, the value and what is allowed instead, and shows
//! the line.

use std::{fmt, ops::Range, path::PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The contents are wrong; at least one problem, in the order of the file where possible.
    #[error("{}", Listed(.0))]
    Problems(Vec<Problem>),
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where it is; none for what comes from the command line.
    pub place: Option<Place>,
    /// Path of the key, such as `subsystem[0].namespace[1].size`; empty for faults of syntax.
    pub key: String,
    /// The value as it is written; empty where a key is missing or unknown.
    pub value: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A place in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Name of the file as the user gave it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text.
    text: String,
    /// How many characters of it are meant, at least 1.
    width: usize,
}

/// Text of a configuration and its name: turns byte ranges into places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl<'a> Source<'a> {
    /// The problem with the value of `key`, which stands at `span`; an empty range means that it is not in the file
    /// (a default, or the command line).
    pub(super) fn value_problem(&self, key: String, span: &Range<usize>, value: String, message: String) -> Problem {
        // As the user wrote it, if it is in the file and not merely where it is missing.
        let value = if value.is_empty() || span.is_empty() { value } else { self.slice(span).to_owned() };
        Problem { place: self.place(span), key, value, message }
    }

    /// The problem at `span`, which belongs to the key or value found there.
    fn problem(&self, span: Range<usize>, message: String) -> Problem {
        let (key, value_span) = self.key_at(&span);
        let value = match value_span {
            Some(value) if value == span => self.slice(&value).trim().to_owned(),
            _ => String::new(),
        };
        Problem { place: self.place(&span), key, value, message }
    }

    /// A fault that the TOML reader found.
    pub(super) fn reader_problem(&self, error: &toml::de::Error) -> Problem {
        match error.span() {
            Some(span) => self.problem(span, tidy(error.message())),
            None => Problem { place: None, key: String::new(), value: String::new(), message: tidy(error.message()) },
        }
    }

    fn slice(&self, span: &Range<usize>) -> &'a str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    fn place(&self, span: &Range<usize>) -> Option<Place> {
        if span.is_empty() && span.start == 0 {
            return None;
        }
        let start = span.start.min(self.text.len());
        let before = self.text.get(..start)?;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let text = self.text.get(line_start..)?.lines().next().unwrap_or_default();
        let column = before.get(line_start..)?.chars().count() + 1;
        let meant = self.slice(&(start..span.end.max(start))).lines().next().unwrap_or_default();
        Some(Place {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column,
            text: text.to_owned(),
            width: meant.chars().count().max(1),
        })
    }

    /// Path of the innermost key whose key or value contains `span`, and the range of its value.
    fn key_at(&self, span: &Range<usize>) -> (String, Option<Range<usize>>) {
        let (table, _) = DeTable::parse_recoverable(self.text);
        let mut path = String::new();
        let found = descend(table.get_ref(), span, &mut path);
        (path, found)
    }
}

/// Walks to the innermost element at `span`; `path` grows on the way.
fn descend(table: &DeTable<'_>, span: &Range<usize>, path: &mut String) -> Option<Range<usize>> {
    for (key, value) in table {
        if key.span() == *span {
            push_key(path, key.get_ref());
            return None;
        }
        let length = path.len();
        push_key(path, key.get_ref());
        if let Some(found) = descend_value(value, span, path) {
            return found;
        }
        path.truncate(length);
    }
    None
}

/// `None` when `span` is elsewhere, else the range of the innermost value there (`None` for a key without value).
fn descend_value(value: &Spanned<DeValue<'_>>, span: &Range<usize>, path: &mut String) -> Option<Option<Range<usize>>> {
    let inside = contains(&value.span(), span);
    let length = path.len();
    match value.get_ref() {
        // The range of a table that has a header of its own ends with the header, so its entries are always looked at.
        DeValue::Table(table) => {
            let found = descend(table, span, path);
            if found.is_some() || path.len() > length {
                return Some(found);
            }
        }
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                if let Some(found) = descend_value(element, span, path) {
                    return Some(found);
                }
                path.truncate(length);
            }
        }
        _ => {}
    }
    inside.then(|| Some(value.span()))
}

fn contains(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && outer.start < outer.end
}

fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

/// The reader's own words, with the ends that a user can do without removed.
fn tidy(message: &str) -> String {
    message.trim().replace('\n', "; ")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", place.file, place.line, place.column)?;
        }
        match (self.key.as_str(), self.value.as_str()) {
            ("", _) => {}
            (key, "") => write!(f, "{key}: ")?,
            (key, value) => write!(f, "{key} = {}: ", value.lines().next().unwrap_or_default())?,
        }
        write!(f, "{}", self.message)?;
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            let gutter = " ".repeat(number.len());
            let blank: String =
                place.text.chars().take(place.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(f, "\n {gutter} |\n {number} | {}\n {gutter} | {blank}{}", place.text, "^".repeat(place.width))?;
        }
        Ok(())
    }
}

/// Displays all problems, one after the other.
struct Listed<'a>(&'a [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
