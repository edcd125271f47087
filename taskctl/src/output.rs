//! Answers on stdout: a table for people, JSON for machines.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use task_events::escape::escape_control;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table.
    Text,
    /// JSON.
    Json,
}

/// What a table shows where there is no value.
const NONE: &str = "-";

/// Writes `value` as JSON, or what `text` makes of it.
pub fn write<T: Serialize>(format: Format, value: &T, text: impl FnOnce(&T) -> String) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match format {
        Format::Text => stdout.write_all(text(value).as_bytes())?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut stdout, value)?;
            stdout.write_all(b"\n")?;
        }
    }
    stdout.flush()
}

/// Whether stdout takes colours: a terminal that knows them, unless the user wants none (<https://no-color.org>).
fn has_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// The escape sequence that a cell starts with: the words for states have colours.
fn colour(cell: &str) -> Option<&'static str> {
    match cell {
        "ok" | "active" | "created" => Some("\x1b[32m"),
        "warn" | "unknown" | "released" => Some("\x1b[33m"),
        "fail" | "silent" | "expired" => Some("\x1b[31m"),
        _ => None,
    }
}

/// No column is wider: what is longer pushes the rest of its line aside. Rust pads to 65,535 characters at most.
const MAX_WIDTH: usize = 1_000;

/// A table in columns as wide as their widest cell, two spaces apart. Control characters are escaped.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    render(header, rows, has_colours())
}

fn render<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    has_colours: bool,
) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| row.map(|cell| escape_control(&cell).into_owned())));
    let mut widths = [0; N];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().min(MAX_WIDTH).max(*width);
        }
    }
    let mut text = String::new();
    for line in &lines {
        let padded = |(cell, width): (&String, usize)| match colour(cell).filter(|_| has_colours) {
            Some(colour) => format!("{colour}{cell}\x1b[0m{:1$}", "", width.saturating_sub(cell.len())),
            None => format!("{cell:width$}"),
        };
        let cells = line.iter().zip(widths).map(padded);
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The value as a table shows it.
pub fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), cell(Some(1))], ["größer".to_owned(), cell(None::<i64>)]];
        assert_eq!(table(["NAME", "N"], rows), "NAME    N\na       1\ngrößer  -\n");
    }

    #[test]
    fn a_cell_that_is_longer_than_any_line_ends_nothing() {
        let long = "x".repeat(100_000);
        let text = table(["NAME", "N"], [[long.clone(), "1".to_owned()], ["a".to_owned(), "2".to_owned()]]);
        assert!(text.contains(&format!("{long}  1\n")) && text.ends_with("  2\n"), "{}", text.len());
    }

    #[test]
    fn colours_change_no_width() {
        let rows = [["active".to_owned(), "x".to_owned()], ["unclaimed".to_owned(), "y".to_owned()]];
        let text = render(["STATE", "N"], rows, true);
        assert_eq!(text, "STATE      N\n\x1b[32mactive\x1b[0m     x\nunclaimed  y\n");
    }

    #[test]
    fn a_cell_cannot_forge_a_row() {
        assert_eq!(table(["NAME"], [["a\nb".to_owned()]]), "NAME\na\\nb\n");
    }
}
