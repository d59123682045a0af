//! The emergency exit: two annotations on an `EgressPolicy` make it watch only, until a time, for a reason. Whoever may annotate
//! the policy may do it; it ends by itself, and every decision that it changes carries the reason into the audit log.
//!
//! **It lasts seven days at most.** The API server refuses a longer one where the chart's admission policy is installed; whoever decides
//! does not believe that, and one that has longer to go holds only once seven days are left.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonnage_cache::path::Escaped;

/// Annotation with the time at which it ends, such as `2026-11-27T06:00:00Z`.
pub const UNTIL: &str = "tonnage.dev/override-until";
/// Annotation with the reason.
pub const REASON: &str = "tonnage.dev/override-reason";
/// Longest time that one may have to go, in seconds.
const MOST: i64 = 7 * 86_400;
/// Longest reason, in characters.
const LONGEST: usize = 256;

/// A policy that only watches until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overrule {
    /// The first second at which the policy is in force again, since 1970 (UTC).
    pub until_unix: i64,
    /// Why.
    pub reason: String,
}

impl Overrule {
    /// Reads the annotations of a policy. One that is not complete does not overrule; the sentence says what is missing.
    pub fn find(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let (until, reason) = match (annotations.get(UNTIL), annotations.get(REASON)) {
            (None, None) => return Ok(None),
            (Some(until), Some(reason)) if !reason.trim().is_empty() => (until, reason.trim()),
            (Some(_), _) => {
                return Err(format!(
                    "annotation {UNTIL} has no effect without {REASON}: say why"
                ));
            }
            (None, Some(_)) => {
                return Err(format!(
                    "annotation {REASON} has no effect without {UNTIL}: say until when, such as 2026-11-27T06:00:00Z"
                ));
            }
        };
        let moment = OffsetDateTime::parse(until, &Rfc3339).map_err(|_| {
            format!(
                "annotation {UNTIL} has no effect: {} is not a time such as 2026-11-27T06:00:00Z",
                Escaped(until)
            )
        })?;
        Ok(Some(Self {
            until_unix: moment.unix_timestamp(),
            reason: reason.chars().take(LONGEST).collect(),
        }))
    }

    /// The first second at which it may hold, since 1970 (UTC).
    pub fn begins_unix(&self) -> i64 {
        self.until_unix.saturating_sub(MOST)
    }

    /// Whether it holds at a time.
    pub fn holds(&self, now_unix: i64) -> bool {
        now_unix < self.until_unix && !self.is_too_long(now_unix)
    }

    /// Whether it has longer to go than one may, and does not hold yet.
    pub fn is_too_long(&self, now_unix: i64) -> bool {
        now_unix < self.begins_unix()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(until: Option<&str>, reason: Option<&str>) -> Result<Option<Overrule>, String> {
        let pairs = [(UNTIL, until), (REASON, reason)];
        let annotations = pairs
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
        Overrule::find(&annotations.collect())
    }

    #[test]
    fn both_annotations_overrule_until_a_time_of_any_zone() {
        assert_eq!(find(None, None), Ok(None));
        let overrule = find(Some("2026-11-27T06:00:00+02:00"), Some(" incident 4711 "));
        let expected = Overrule {
            until_unix: 1_795_752_000,
            reason: "incident 4711".to_owned(),
        };
        assert_eq!(overrule, Ok(Some(expected)));
        let long = find(Some("2026-11-27T06:00:00Z"), Some(&"ä".repeat(1_000)));
        assert_eq!(long.unwrap().unwrap().reason, "ä".repeat(256));
    }

    #[test]
    fn one_that_has_longer_than_seven_days_to_go_holds_once_seven_are_left() {
        let overrule = find(Some("1970-01-09T00:00:00Z"), Some("incident"));
        let overrule = overrule.unwrap().unwrap();
        let day = 86_400;
        assert_eq!(overrule.begins_unix(), day);
        for (now, holds, is_too_long) in [
            (day - 1, false, true),
            (day, true, false),
            (8 * day - 1, true, false),
            (8 * day, false, false),
            (i64::MIN, false, true),
        ] {
            let found = (overrule.holds(now), overrule.is_too_long(now));
            assert_eq!(found, (holds, is_too_long), "{now}");
        }
    }

    #[test]
    fn one_that_is_not_complete_does_not_and_says_why() {
        for (until, reason, sentence) in [
            (
                Some("2026-11-27T06:00:00Z"),
                None,
                "annotation tonnage.dev/override-until has no effect without tonnage.dev/override-reason: say why",
            ),
            (
                Some("2026-11-27T06:00:00Z"),
                Some(" "),
                "annotation tonnage.dev/override-until has no effect without tonnage.dev/override-reason: say why",
            ),
            (
                None,
                Some("incident"),
                "annotation tonnage.dev/override-reason has no effect without tonnage.dev/override-until: say until when, such as 2026-11-27T06:00:00Z",
            ),
            (
                Some("tomorrow\n"),
                Some("incident"),
                r#"annotation tonnage.dev/override-until has no effect: "tomorrow\n" is not a time such as 2026-11-27T06:00:00Z"#,
            ),
        ] {
            assert_eq!(find(until, reason).unwrap_err(), sentence);
        }
    }
}
