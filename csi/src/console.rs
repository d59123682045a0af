//! The two streams of the command line: results go to standard output, everything said to a person goes to
//! standard error. A reader that hangs up (`| head`) ends the program quietly. Nothing else prints.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use crate::exit::{Code, Failure};

/// Where results and remarks go.
#[derive(Debug)]
pub(crate) struct Console {
    quiet: bool,
    draws: bool,
    out: io::Stdout,
    err: io::Stderr,
}

impl Console {
    /// A console that says less if `quiet`, and draws bars where standard error is a terminal.
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            draws: io::stderr().is_terminal(),
            out: io::stdout(),
            err: io::stderr(),
        }
    }

    /// Whether remarks and progress are unwanted.
    pub(crate) const fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether a person is watching.
    pub(crate) const fn draws(&self) -> bool {
        self.draws
    }

    /// One line of the result.
    pub(crate) fn result(&self, line: impl Display) -> Result<(), Failure> {
        let mut out = self.out.lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .map_err(|error| unwritable(&error))
    }

    /// The result as one JSON document on one line.
    pub(crate) fn json(&self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::new(Code::Internal, "write the result", error.to_string()))?;
        self.result(text)
    }

    /// A line of which some columns are padded: the result of a table.
    pub(crate) fn table(&self, rows: &[Vec<String>]) -> Result<(), Failure> {
        for row in rows {
            self.result(aligned(row, &widths(rows)).trim_end())?;
        }
        Ok(())
    }

    /// A remark to the person, unless they asked for quiet.
    pub(crate) fn remark(&self, line: impl Display) {
        if !self.quiet {
            self.say(line);
        }
    }

    /// Something that is said even where quiet was asked for.
    pub(crate) fn say(&self, line: impl Display) {
        // Standard error may be closed; there is nowhere left to say so.
        let _unwritten = writeln!(self.err.lock(), "{line}");
    }
}

/// A reader that hangs up has what it wants.
fn unwritable(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::new(Code::Done, "", "")
    } else {
        Failure::io("write the result", error)
    }
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect()
}

fn aligned(row: &[String], widths: &[usize]) -> String {
    row.iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect::<Vec<_>>()
        .join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "bb".to_owned()],
            vec!["ccc".to_owned(), "d".to_owned()],
        ];
        assert_eq!(aligned(&rows[0], &widths(&rows)), "a    bb");
        assert_eq!(aligned(&rows[1], &widths(&rows)), "ccc  d ");
    }
}
