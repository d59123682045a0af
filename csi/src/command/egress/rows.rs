//! From objects of the API server to what is shown of a policy. What cannot be read is left out of a row, never the row.

use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonnage_csi::crd::{BudgetUse, CHANGED_BY, Denials, EgressBudgetSpec};
use tonnage_csi::egress::compiled::{Allowance, Compiled};
use tonnage_csi::egress::ledger::Ledger;
use tonnage_csi::egress::ledger::objects::read_ledger;
use tonnage_csi::egress::window::Window;

use super::books::Book;
use super::cost::{Cost, Market, used_most};
use super::{BudgetRow, Row};

/// Most namespaces of a row.
const MOST: usize = 5;

/// A part of an object.
fn part<T: DeserializeOwned>(object: &Value, path: &str) -> Option<T> {
    let part = object.pointer(path)?;
    serde_json::from_value(part.clone()).ok()
}

/// What the controller says of a policy, and what it cost.
pub(super) fn of_status(policy: &Value, compiled: &Compiled, market: &Market<'_>) -> Row {
    let said: Vec<BudgetUse> = part(policy, "/status/budgets").unwrap_or_default();
    let budgets = allowances(compiled).iter().map(|allowance| {
        let said = said.iter().find(|said| said.name == allowance.name);
        BudgetRow {
            used_bytes: said.map(|said| read(said.used_bytes)),
            left_bytes: said.map(|said| read(said.left_bytes)),
            window_end: said
                .and_then(|said| said.window_end.as_ref())
                .map(|time| time.0.to_string()),
            used_most: said.map_or(Vec::new(), |said| said.top_users.clone()),
            ..unknown(allowance)
        }
    });
    Row {
        budgets: budgets.collect(),
        ..head(policy, compiled, market).with(market.cost(compiled, None))
    }
}

/// What a namespace has of a policy's budgets, by their ledgers at this moment, and what its bytes cost. The policy selects the
/// namespace. A budget that nothing was asked of yet has no ledger, and all of it is left.
pub(super) fn of_namespace(
    policy: &Value,
    compiled: &Compiled,
    market: &Market<'_>,
    namespace: &str,
) -> Row {
    let budgets = allowances(compiled).iter().map(|allowance| {
        let account = EgressBudgetSpec {
            policy: compiled.name.clone(),
            policy_uid: compiled.uid.0.clone(),
            budget: allowance.name.clone(),
            namespace: (!allowance.shared).then(|| namespace.to_owned()),
        };
        match market.books.find(&account) {
            Ok(book) => of_ledger(allowance, book, market.now_unix),
            Err(why) => BudgetRow {
                unread: Some(why),
                ..unknown(allowance)
            },
        }
    });
    Row {
        budgets: budgets.collect(),
        ..head(policy, compiled, market).with(market.cost(compiled, Some(namespace)))
    }
}

fn of_ledger(allowance: &Allowance, book: Option<&Book>, now_unix: i64) -> BudgetRow {
    let window = &allowance.window;
    let ledger = book.map(|book| read_ledger(&book.status));
    let ledger = ledger.unwrap_or_default();
    let now = ledger.time(now_unix);
    let used = ledger.used(window, now);
    let users = book.map_or(&[][..], |book| book.status.users.as_slice());
    let mut used_most = used_most(users, ledger.settled(window, now));
    used_most.truncate(MOST);
    BudgetRow {
        used_bytes: Some(used),
        left_bytes: Some(allowance.limit_bytes.saturating_sub(used)),
        window_end: comes_back(&ledger, window, now).and_then(moment),
        used_most,
        ..unknown(allowance)
    }
}

/// When bytes come back: at the end of a calendar's period, or when the oldest leave a rolling window.
fn comes_back(ledger: &Ledger, window: &Window, now: i64) -> Option<i64> {
    let counted = ledger.booked(window).filter(|(_, bytes)| *bytes > 0);
    let ends = counted.map(|(key, _)| window.ends(key));
    window
        .period_end(now)
        .or_else(|| ends.filter(|end| *end > now).min())
}

fn allowances(compiled: &Compiled) -> &[Allowance] {
    compiled
        .rules()
        .map_or(&[], |rules| rules.budgets.as_slice())
}

fn unknown(allowance: &Allowance) -> BudgetRow {
    BudgetRow {
        budget: allowance.name.clone(),
        shared: allowance.shared,
        window: allowance.window.to_string(),
        limit_bytes: allowance.limit_bytes,
        used_bytes: None,
        left_bytes: None,
        unread: None,
        window_end: None,
        used_most: Vec::new(),
    }
}

/// What is known of a policy beside its budgets and costs.
fn head(policy: &Value, compiled: &Compiled, market: &Market<'_>) -> Row {
    let denied: Denials = part(policy, "/status/denied").unwrap_or_default();
    let annotations = policy.pointer("/metadata/annotations");
    let changed_by = annotations.and_then(|annotations| annotations.get(CHANGED_BY));
    Row {
        policy: compiled.name.clone(),
        mode: super::mode(compiled, market.now_unix),
        problem: compiled.rules().err().map(str::to_owned),
        budgets: Vec::new(),
        cost: None,
        cost_budget: None,
        cost_is_partial: false,
        denied: read(denied.count),
        last_denied: denied.last_reason,
        changed_by: changed_by.and_then(Value::as_str).map(str::to_owned),
    }
}

impl Row {
    fn with(self, cost: Cost) -> Self {
        let Cost {
            amount,
            budget,
            is_partial,
        } = cost;
        Self {
            cost: amount,
            cost_budget: budget,
            cost_is_partial: is_partial,
            ..self
        }
    }
}

/// Numbers in an object: never negative there.
fn read(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn moment(unix: i64) -> Option<String> {
    let moment = OffsetDateTime::from_unix_timestamp(unix).ok()?;
    moment.format(&Rfc3339).ok()
}
