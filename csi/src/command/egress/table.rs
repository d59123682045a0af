//! Policies and their budgets as a table. The first budget of a policy stands in the policy's line.

use tonnage_csi::size::ByteSize;

use super::{BudgetRow, Row};

/// Most namespaces of a cell.
const MOST: usize = 3;

/// The lines, the head first.
pub(super) fn of(rows: &[Row]) -> Vec<Vec<String>> {
    let mut lines = vec![words([
        "POLICY",
        "MODE",
        "COST",
        "DENIED",
        "BUDGET",
        "USED",
        "LEFT",
        "WINDOW",
        "BYTES BACK",
        "USED MOST",
    ])];
    for row in rows {
        let mut head = words([
            row.policy.as_str(),
            row.mode,
            &cost(row),
            &row.denied.to_string(),
        ]);
        if row.budgets.is_empty() {
            head.push("-".to_owned());
            lines.push(std::mem::take(&mut head));
        }
        for budget in &row.budgets {
            let mut line = std::mem::take(&mut head);
            line.resize(4, String::new());
            line.extend(cells(budget));
            lines.push(line);
        }
    }
    lines
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

/// `41.20 EUR (month)`: what is spent in the window of that budget.
fn cost(row: &Row) -> String {
    match (&row.cost, row.cost_is_partial) {
        (None, false) => "-".to_owned(),
        (None, true) => "not known".to_owned(),
        (Some(cost), is_partial) => {
            let least = if is_partial { "at least " } else { "" };
            let budget = row.cost_budget.as_deref().unwrap_or_default();
            format!("{least}{cost} ({budget})")
        }
    }
}

fn cells(budget: &BudgetRow) -> [String; 6] {
    let bytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string())
    };
    let limit = ByteSize(budget.limit_bytes);
    let most: Vec<String> = budget
        .used_most
        .iter()
        .take(MOST)
        .map(|used| {
            let bytes = u64::try_from(used.bytes).unwrap_or_default();
            format!("{} {}", used.namespace, ByteSize(bytes))
        })
        .collect();
    [
        if budget.shared {
            format!("{} (shared)", budget.budget)
        } else {
            budget.budget.clone()
        },
        format!("{} of {limit}", bytes(budget.used_bytes)),
        match budget.unread {
            Some(_) => "not known".to_owned(),
            None => bytes(budget.left_bytes),
        },
        budget.window.clone(),
        budget.window_end.clone().unwrap_or_else(|| "-".to_owned()),
        if most.is_empty() {
            "-".to_owned()
        } else {
            most.join(", ")
        },
    ]
}
