//! How large a world is, and what may go wrong in it.

use std::time::Duration;

use tonnage_csi::crd::CalendarPeriod;
use tonnage_csi::egress::{lease, ledger, window::Window};

/// Seconds that pass at once: a quarter of the shortest window.
pub(crate) const TICK: i64 = 900;

/// The hour of the calendar.
pub(crate) const HOURLY: Window = Window::Calendar {
    period: CalendarPeriod::Hourly,
    offset_seconds: 0,
};
/// The same in a time zone that is half an hour ahead.
pub(crate) const AHEAD: Window = Window::Calendar {
    period: CalendarPeriod::Hourly,
    offset_seconds: 2 * TICK,
};
/// The last hour.
pub(crate) const ROLLING: Window = Window::Rolling { seconds: 4 * TICK };

/// A world and its bounds.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) nodes: usize,
    pub(crate) controllers: usize,
    pub(crate) accounts: usize,
    pub(crate) window: Window,
    /// The window that takes its place at some time.
    pub(crate) edited: Option<Window>,
    /// Limits, each following the one before at any time.
    pub(crate) limits: Vec<u64>,
    /// What a load says it will need.
    pub(crate) foreseen: u64,
    pub(crate) ledger: ledger::Rules,
    pub(crate) lease: lease::Rules,
    /// Whether a node may read the status before the last.
    pub(crate) rereads: bool,
    /// How many ticks pass at most, and how often each of the following happens.
    pub(crate) ticks: u8,
    pub(crate) demands: u8,
    pub(crate) timeouts: u8,
    pub(crate) restarts: u8,
    pub(crate) handovers: u8,
    pub(crate) jumps: u8,
    pub(crate) flaw: Option<Flaw>,
}

/// A way to do it wrong. The checker must find out every one, or it would not find out anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// The clock of a grant starts when it comes, not before it was asked for.
    CountsFromTheAnswer,
    /// A node is told what is not yet in the API server.
    AnswersBeforeItWrites,
    /// A ledger is written whatever is in the API server meanwhile.
    WritesWithoutVersion,
    /// A service that begins anew goes on with the lease that it had saved.
    RemembersItsLease,
    /// A node goes on with a grant of which it said what was spent.
    ReportsAndGoesOn,
    /// Grants end by the wall clock of whoever looks, and the rest that was never reported is given to others.
    GoesByTheWallClock,
    /// When a window is edited, what is settled is read as though it had always been the new one.
    KeepsKeysAtAnEdit,
}

impl Setting {
    /// The window that the policy names, before or after it was edited.
    pub(crate) fn window(&self, is_edited: bool) -> &Window {
        let edited = self.edited.as_ref().filter(|_| is_edited);
        edited.unwrap_or(&self.window)
    }

    /// Two nodes, two controllers, one budget of three bytes, grants of two, and nothing that goes wrong.
    pub(crate) fn new() -> Self {
        Self {
            nodes: 2,
            controllers: 2,
            accounts: 1,
            window: HOURLY,
            edited: None,
            limits: vec![3],
            foreseen: 2,
            ledger: ledger::Rules {
                most: 2,
                share: u64::MAX,
                least: 1,
                seconds: 2 * 900,
                rows: 8,
            },
            lease: lease::Rules {
                pause: Duration::ZERO,
                margin: Duration::ZERO,
                idle: Duration::from_secs(TICK.unsigned_abs()),
                keep: Duration::from_secs(TICK.unsigned_abs()),
                most: 8,
            },
            rereads: false,
            ticks: 0,
            demands: 3,
            timeouts: 0,
            restarts: 0,
            handovers: 0,
            jumps: 0,
            flaw: None,
        }
    }
}
