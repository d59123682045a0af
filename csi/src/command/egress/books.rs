//! Ledgers as the API server has them: those that can be read, and of the others which they are and why they cannot. An account whose
//! ledger cannot be read has not used nothing: nobody knows what it has used.

use serde_json::Value;
use tonnage_csi::crd::{EgressBudget, EgressBudgetSpec, EgressBudgetStatus};

use crate::exit::{Code, Failure};

/// A ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::command) struct Book {
    pub(in crate::command) spec: EgressBudgetSpec,
    pub(in crate::command) status: EgressBudgetStatus,
}

/// A ledger that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unread {
    name: String,
    why: String,
}

/// The ledgers of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::command) struct Books {
    read: Vec<Book>,
    unread: Vec<Unread>,
    /// Why the API server did not tell of any.
    untold: Option<String>,
}

impl Books {
    /// Reads the objects that can be read.
    pub(in crate::command) fn of(objects: Vec<Value>) -> Self {
        let mut books = Self::default();
        for object in objects {
            let name = object.pointer("/metadata/name").and_then(Value::as_str);
            let name = name.unwrap_or_default().to_owned();
            match serde_json::from_value::<EgressBudget>(object) {
                Ok(EgressBudget { spec, status, .. }) => books.read.push(Book {
                    spec,
                    status: status.unwrap_or_default(),
                }),
                Err(error) => books.unread.push(Unread {
                    name,
                    why: error.to_string().escape_debug().to_string(),
                }),
            }
        }
        books
    }

    /// No ledger was told of.
    pub(in crate::command) fn untold(failure: &Failure) -> Self {
        Self {
            untold: Some(failure.sentence()),
            ..Self::default()
        }
    }

    /// Those that can be read.
    pub(in crate::command) fn iter(&self) -> impl Iterator<Item = &Book> {
        self.read.iter()
    }

    /// The ledger of an account, nothing if none was ever asked for, or why that cannot be told.
    pub(in crate::command) fn find(
        &self,
        account: &EgressBudgetSpec,
    ) -> Result<Option<&Book>, String> {
        if let Some(why) = &self.untold {
            return Err(why.clone());
        }
        let is_its = |book: &&Book| {
            let spec = &book.spec;
            (&spec.policy_uid, &spec.budget, &spec.namespace)
                == (&account.policy_uid, &account.budget, &account.namespace)
        };
        if let Some(book) = self.read.iter().find(is_its) {
            return Ok(Some(book));
        }
        let name = account.object_name();
        match self.unread.iter().find(|unread| unread.name == name) {
            Some(unread) => Err(unread.sentence()),
            None => Ok(None),
        }
    }

    /// Whether a ledger of a policy's budget is one of those that cannot be read: of one namespace, or of any.
    pub(super) fn lacks(&self, (policy, budget): (&str, &str), namespace: Option<&str>) -> bool {
        let shared = format!("{policy}.{budget}");
        let is_its = |name: &str| match (name.strip_prefix(shared.as_str()), namespace) {
            (None, _) => false,
            (Some(""), _) => true,
            (Some(rest), None) => rest.starts_with('.'),
            (Some(rest), Some(namespace)) => rest.strip_prefix('.') == Some(namespace),
        };
        self.untold.is_some() || self.unread.iter().any(|unread| is_its(&unread.name))
    }

    /// What is to be said of each that cannot be read.
    pub(super) fn problems(&self) -> Vec<String> {
        self.unread.iter().map(Unread::sentence).collect()
    }
}

impl Unread {
    fn sentence(&self) -> String {
        let Self { name, why } = self;
        let name = name.escape_debug();
        format!("EgressBudget {name} cannot be read: {why}")
    }
}

/// A failure that says so.
pub(super) fn unreadable(sentence: &str) -> Failure {
    Failure::new(Code::Data, "read the ledgers", sentence)
        .or_advise("it may be of a newer version than this program")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn account(namespace: Option<&str>) -> EgressBudgetSpec {
        EgressBudgetSpec {
            policy: "research".to_owned(),
            policy_uid: "u".to_owned(),
            budget: "daily".to_owned(),
            namespace: namespace.map(str::to_owned),
        }
    }

    fn object(name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "tonnage.dev/v1alpha1",
            "kind": "EgressBudget",
            "metadata": {"name": name},
            "spec": spec,
        })
    }

    #[test]
    fn a_ledger_that_cannot_be_read_is_no_ledger_that_is_not_there() {
        let own = json!({"policy": "research", "policyUid": "u", "budget": "daily", "namespace": "team-a"});
        let books = Books::of(vec![
            object("research.daily.team-a", &own),
            object("research.daily.team-b", &json!({"budget": 7})),
            json!({"spec": 7}),
        ]);
        let found = books.find(&account(Some("team-a"))).unwrap();
        assert_eq!(found.unwrap().spec.namespace.as_deref(), Some("team-a"));
        assert_eq!(books.find(&account(Some("team-c"))), Ok(None));
        assert_eq!(books.find(&account(None)), Ok(None));
        let why = books.find(&account(Some("team-b"))).unwrap_err();
        assert!(
            why.starts_with("EgressBudget research.daily.team-b cannot be read: "),
            "{why}"
        );
        assert_eq!(books.problems().len(), 2);
        for (budget, namespace, lacks) in [
            ("daily", None, true),
            ("daily", Some("team-b"), true),
            ("daily", Some("team-a"), false),
            ("dail", None, false),
        ] {
            assert_eq!(
                books.lacks(("research", budget), namespace),
                lacks,
                "{budget}"
            );
        }
    }

    #[test]
    fn of_ledgers_that_nobody_told_of_nothing_is_known() {
        let failure = Failure::new(Code::Denied, "list egressbudgets", "you may not")
            .or_advise("ask somebody");
        let books = Books::untold(&failure);
        assert_eq!(
            books.find(&account(None)),
            Err("list egressbudgets: you may not; ask somebody".to_owned())
        );
        assert!(books.lacks(("research", "daily"), None));
    }
}
