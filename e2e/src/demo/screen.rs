//! Terse lines for people: a label, a result, dim details; colours and a progress bar only on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LABEL: usize = 37;
/// Longest line of details.
const DETAIL: usize = 60;

/// Where the demo writes.
#[derive(Debug)]
pub(super) struct Screen {
    colours: bool,
    step: u32,
}

impl Screen {
    /// Standard output.
    pub(super) fn new() -> Self {
        Self {
            colours: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            step: 0,
        }
    }

    /// The first line.
    pub(super) fn title(&self, text: &str) -> io::Result<()> {
        writeln!(io::stdout(), "\n  {}\n", self.paint("1", text))
    }

    /// A numbered line with its result.
    pub(super) fn step(&mut self, label: &str, result: &str) -> io::Result<()> {
        self.step += 1;
        let number = self.paint("36", &self.step.to_string());
        writeln!(
            io::stdout(),
            "  {number} {} {}",
            self.label(label),
            self.paint("1", result)
        )
    }

    /// A line without a number.
    pub(super) fn line(&self, label: &str, result: &str) -> io::Result<()> {
        writeln!(io::stdout(), "    {} {result}", self.label(label))
    }

    /// Dim lines below a result, broken between the parts that ` · ` joins.
    pub(super) fn detail(&self, text: &str) -> io::Result<()> {
        for line in broken(text) {
            writeln!(io::stdout(), "    {:LABEL$} {}", "", self.paint("2", &line))?;
        }
        Ok(())
    }

    /// A bar for `total` bytes; invisible where standard output is no terminal.
    pub(super) fn bar(&self, label: &str, total: u64) -> ProgressBar {
        let target = if io::stdout().is_terminal() {
            ProgressDrawTarget::stdout_with_hz(20)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        bar.set_prefix(self.label(label));
        let template = "    {prefix} {bar:26.cyan/238} {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸━"));
        }
        bar
    }

    /// Padded before it is painted, so that colours do not count.
    fn label(&self, text: &str) -> String {
        self.paint("2", &format!("{text:LABEL$}"))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

fn broken(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in text.split(" · ") {
        match lines.last_mut() {
            Some(line) if line.chars().count() + part.chars().count() < DETAIL => {
                line.push_str(" · ");
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines
}

/// `1.50 GiB`, `12.0 MiB`, `512 B`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match (unit, value) {
        ("B", _) => format!("{bytes} B"),
        (_, value) if value < 10.0 => format!("{value:.2} {unit}"),
        (_, value) if value < 100.0 => format!("{value:.1} {unit}"),
        (_, value) => format!("{value:.0} {unit}"),
    }
}

/// `2.31 GB/s`.
pub(super) fn speed(bytes_per_second: f64) -> String {
    format!("{:.2} GB/s", bytes_per_second / 1e9)
}

/// `840 µs`, `3.2 ms`, `1.24 s`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.01 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds >= 0.001 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{:.0} µs", seconds * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_details_break_between_their_parts() {
        let part = "x".repeat(25);
        let text = [part.as_str(); 3].join(" · ");
        assert_eq!(broken(&text), [format!("{part} · {part}"), part]);
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1 << 30), "1.00 GiB");
        assert_eq!(size((12 << 20) + (1 << 19)), "12.5 MiB");
        assert_eq!(speed(2.314e9), "2.31 GB/s");
        assert_eq!(time(Duration::from_micros(840)), "840 µs");
        assert_eq!(time(Duration::from_micros(3210)), "3.2 ms");
        assert_eq!(time(Duration::from_millis(1240)), "1.24 s");
    }
}
