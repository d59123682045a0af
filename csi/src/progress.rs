//! Shows a running load on standard error: a bar on a terminal, a line every few seconds elsewhere. It looks at
//! a [`Progress`] ten times a second in the caller's own task, so there is nothing to stop or join; it never
//! writes to standard output and never changes what it watches.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::MissedTickBehavior;
use tonnage_cache::report::{Phase, Progress, Snapshot};

use crate::console::Console;
use tonnage_csi::size::{ByteSize, Rate};

const LOOK: Duration = Duration::from_millis(100);
/// How many looks lie between two plain lines: five seconds.
const LOOKS_PER_LINE: u32 = 50;
const BAR: &str = "{msg:12} {wide_bar:.cyan/dim} {percent:>3} % {bytes:>10}/{total_bytes} {bytes_per_sec:>12} {eta:>5}";
const SPINNER: &str = "{spinner} {msg} {elapsed}";

/// Drives `work` to its end and shows `progress` meanwhile.
pub(crate) async fn watch<T>(
    console: &Console,
    progress: &Progress,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    if console.is_quiet() {
        return work.await;
    }
    let mut screen = if console.draws() {
        Screen::bar()
    } else {
        Screen::lines()
    };
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            outcome = &mut work => {
                screen.clear();
                return outcome;
            }
            _ = looks.tick() => screen.show(console, progress.snapshot()),
        }
    }
}

/// What a phase is called while it runs.
pub(crate) const fn verb(phase: Option<Phase>) -> &'static str {
    match phase {
        None => "starting",
        Some(Phase::Queue) => "waiting",
        Some(Phase::Authorize) => "authorizing",
        Some(Phase::Resolve) => "listing",
        Some(Phase::FirstByte | Phase::Transfer) => "fetching",
        Some(Phase::Sync) => "syncing",
        Some(Phase::View) => "laying out",
        Some(Phase::Mount) => "mounting",
    }
}

enum Screen {
    Bar(ProgressBar),
    Lines { looks: u32, bytes: u64 },
}

impl Screen {
    fn bar() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style(SPINNER));
        Self::Bar(bar)
    }

    const fn lines() -> Self {
        Self::Lines { looks: 0, bytes: 0 }
    }

    fn show(&mut self, console: &Console, now: Snapshot) {
        match self {
            Self::Bar(bar) => draw(bar, now),
            Self::Lines { looks, bytes } => {
                *looks += 1;
                if *looks % LOOKS_PER_LINE == 0 {
                    console.remark(line(now, *bytes));
                    *bytes = now.done;
                }
            }
        }
    }

    fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, now: Snapshot) {
    if now.total > 0 && bar.length() != Some(now.total) {
        bar.set_style(style(BAR).progress_chars("━╸━"));
        bar.set_length(now.total);
    }
    bar.set_message(verb(now.phase));
    bar.set_position(now.done);
    bar.tick();
}

/// Templates are ours and covered by a test; a bar without its style is still a bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn line(now: Snapshot, before: u64) -> String {
    let Some(percent) = now.done.saturating_mul(100).checked_div(now.total) else {
        return verb(now.phase).to_owned();
    };
    let rate = Rate {
        bytes: now.done.saturating_sub(before),
        time: LOOK.saturating_mul(LOOKS_PER_LINE),
    };
    format!(
        "{} {percent} % ({} of {}, {} of {} files), {rate}",
        verb(now.phase),
        ByteSize(now.done),
        ByteSize(now.total),
        now.files_done,
        now.files_total,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
        assert!(ProgressStyle::with_template(SPINNER).is_ok());
    }

    #[test]
    fn a_plain_line_says_how_far_and_how_fast() {
        let now = Snapshot {
            total: 10 << 30,
            done: 5 << 30,
            files_total: 4,
            files_done: 1,
            phase: Some(Phase::Transfer),
        };
        assert_eq!(
            line(now, 0),
            "fetching 50 % (5.0 GiB of 10.0 GiB, 1 of 4 files), 1.07 GB/s"
        );
        assert_eq!(line(Snapshot::default(), 0), "starting");
    }

    #[tokio::test(start_paused = true)]
    async fn watching_returns_what_the_work_returns() {
        let progress = Progress::default();
        let console = Console::new(true);
        assert_eq!(watch(&console, &progress, async { 7 }).await, 7);
    }
}
