//! From objects of the API server to what is shown of a policy. What cannot be read is left out of a row, never the row.

use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonnage_csi::crd::{
    BudgetUse, CHANGED_BY, Denials, EgressBudget, EgressBudgetSpec, EgressBudgetStatus,
    NamespaceUse,
};
use tonnage_csi::egress::compiled::Allowance;
use tonnage_csi::egress::ledger::objects::read_ledger;

use super::{BudgetRow, Judged, Row};

/// Most namespaces of a row.
const MOST: usize = 5;

/// A part of an object.
fn part<T: DeserializeOwned>(object: &Value, path: &str) -> Option<T> {
    let part = object.pointer(path)?;
    serde_json::from_value(part.clone()).ok()
}

/// What the controller says of a policy.
pub(super) fn of_status(policy: &Value, judged: &Judged) -> Row {
    let said: Vec<BudgetUse> = part(policy, "/status/budgets").unwrap_or_default();
    let budgets = allowances(judged).iter().map(|allowance| {
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
        ..head(policy, judged)
    }
}

/// A ledger.
#[derive(Debug)]
pub(super) struct Book {
    spec: EgressBudgetSpec,
    status: EgressBudgetStatus,
}

/// Reads a ledger, if that can be.
pub(super) fn ledger(budget: &Value) -> Option<Book> {
    let EgressBudget { spec, status, .. } = serde_json::from_value(budget.clone()).ok()?;
    Some(Book {
        spec,
        status: status.unwrap_or_default(),
    })
}

/// What a namespace is charged to.
#[derive(Debug)]
pub(super) struct Charged<'a> {
    pub(super) namespace: &'a str,
    pub(super) budgets: Vec<Book>,
    pub(super) now_unix: i64,
}

impl Charged<'_> {
    /// What the namespace has of a policy's budgets; nothing if it was never charged to one. A budget that was not charged yet
    /// has no ledger, and is shown as unused beside one that has.
    pub(super) fn of(&self, policy: &Value, judged: &Judged) -> Option<Row> {
        let uid = &judged.compiled.uid.0;
        let mine = |book: &&Book| {
            let owner = book.spec.namespace.as_deref();
            book.spec.policy_uid == *uid && owner.is_none_or(|owner| owner == self.namespace)
        };
        let books: Vec<&Book> = self.budgets.iter().filter(mine).collect();
        if books.is_empty() {
            return None;
        }
        let budgets = allowances(judged).iter().map(|allowance| {
            let book = books.iter().find(|book| {
                book.spec.budget == allowance.name
                    && book.spec.namespace.is_none() == allowance.shared
            });
            self.budget(allowance, book.copied())
        });
        Some(Row {
            budgets: budgets.collect(),
            ..head(policy, judged)
        })
    }

    fn budget(&self, allowance: &Allowance, book: Option<&Book>) -> BudgetRow {
        let ledger = book.map(|book| read_ledger(&book.status));
        let now = ledger
            .as_ref()
            .map_or(self.now_unix, |ledger| ledger.time(self.now_unix));
        let used = ledger.map_or(0, |ledger| ledger.used(&allowance.window, now));
        let mut users = book.map_or(Vec::new(), |book| book.status.users.clone());
        users.sort_by_key(|user: &NamespaceUse| std::cmp::Reverse(user.bytes));
        users.truncate(MOST);
        BudgetRow {
            used_bytes: Some(used),
            left_bytes: Some(allowance.limit_bytes.saturating_sub(used)),
            window_end: allowance.window.period_end(now).and_then(moment),
            used_most: users,
            ..unknown(allowance)
        }
    }
}

fn allowances(judged: &Judged) -> &[Allowance] {
    judged
        .compiled
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
        window_end: None,
        used_most: Vec::new(),
    }
}

/// What is known of a policy beside its budgets.
fn head(policy: &Value, judged: &Judged) -> Row {
    let denied: Denials = part(policy, "/status/denied").unwrap_or_default();
    let annotations = policy.pointer("/metadata/annotations");
    let changed_by = annotations.and_then(|annotations| annotations.get(CHANGED_BY));
    Row {
        policy: judged.compiled.name.clone(),
        mode: judged.mode,
        problem: judged.compiled.rules().err().map(str::to_owned),
        budgets: Vec::new(),
        cost: part(policy, "/status/cost"),
        denied: read(denied.count),
        last_denied: denied.last_reason,
        changed_by: changed_by.and_then(Value::as_str).map(str::to_owned),
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
