//! Selections: globs that tenants write.

use proptest::prelude::*;
use tonnage_cache::path::RelPath;
use tonnage_cache::source::select::{PATTERN_MAX, PATTERNS_MAX, Selection};

use super::words::{is_sentence, settings};

fn path() -> impl Strategy<Value = RelPath> {
    let text = "[a-c {}*?\\[\\]!,.\\\\-]{1,4}(/[a-c {}*?\\[\\]!,.\\\\-]{1,4}){0,2}";
    text.prop_filter_map("no path", |text| RelPath::parse(&text).ok())
}

fn plain_path() -> impl Strategy<Value = RelPath> {
    "[ab]{1,2}(/[ab]{1,2}){0,2}".prop_map(|text| RelPath::parse(&text).unwrap())
}

fn patterns() -> impl Strategy<Value = Vec<String>> {
    let pattern = prop_oneof![
        "[ab*?]{1,4}",
        "[ab*?]{1,2}/[ab*?]{1,2}",
        "(\\*\\*/)?[ab]{1,2}(/\\*\\*)?",
        "\\{[ab]{1,2},[ab*]{1,2}\\}",
        "[ab]?\\[!?[ab]\\]",
    ];
    proptest::collection::vec(pattern, 0..4)
}

/// A pattern that is this path and no other.
fn literal(path: &RelPath) -> String {
    let escaped = path.as_str().chars().flat_map(|character| {
        let is_plain = character.is_alphanumeric() || character == '/';
        let escape = (!is_plain).then_some('\\');
        escape.into_iter().chain([character])
    });
    std::iter::once('/').chain(escaped).collect()
}

fn one_more(patterns: &[String], more: &str) -> Vec<String> {
    let mut all = patterns.to_vec();
    all.push(more.to_owned());
    all
}

proptest! {
    #![proptest_config(settings(192))]

    #[test]
    fn what_is_no_glob_is_refused_in_a_sentence(
        include in proptest::collection::vec(prop_oneof!["\\PC{0,20}", "[ -~]{0,20}"], 0..4),
        path in path(),
    ) {
        match Selection::new(&include, &include) {
            Ok(selection) => {
                // What is excluded is not wanted, also where it is included.
                prop_assert_eq!(selection.matches(&path), include.is_empty());
                prop_assert_eq!(selection.include(), include.as_slice());
            }
            Err(error) => prop_assert!(is_sentence(&error.to_string()), "{}", error),
        }
    }

    #[test]
    fn an_escaped_path_is_that_path_and_no_other(path in path(), other in path()) {
        let selection = Selection::new(&[literal(&path)], &[]).unwrap();
        prop_assert!(selection.matches(&path));
        prop_assert_eq!(selection.matches(&other), path == other);
    }

    #[test]
    fn an_include_more_wants_no_less_and_an_exclude_more_wants_no_more(
        include in patterns(),
        exclude in patterns(),
        more in "[ab*?]{1,3}",
        path in plain_path(),
    ) {
        let wants = |include: &[String], exclude: &[String]| {
            let selection = Selection::new(include, exclude);
            selection.is_ok_and(|selection| selection.matches(&path))
        };
        prop_assume!(Selection::new(&include, &exclude).is_ok());
        let wanted = wants(&include, &exclude);
        if wanted && !include.is_empty() {
            prop_assert!(wants(&one_more(&include, &more), &exclude));
        }
        if !wanted {
            prop_assert!(!wants(&include, &one_more(&exclude, &more)));
        }
        // Where nothing is named, all is wanted.
        prop_assert!(wants(&[], &[]));
    }
}

#[test]
fn the_largest_selection_is_made_and_matched_or_refused() {
    for piece in ["?", "*a", "{a,b}", "[!a]", "**/", "\\*"] {
        let long = piece.repeat(PATTERN_MAX / piece.len());
        let many = vec![long; PATTERNS_MAX / 8];
        match Selection::new(&many, &[]) {
            Ok(selection) => {
                assert!(!selection.is_all());
                for path in ["a".repeat(255), vec!["ab"; 60].join("/")] {
                    selection.matches(&RelPath::parse(&path).unwrap());
                }
            }
            Err(error) => assert!(is_sentence(&error.to_string()), "{piece}"),
        }
    }
}

#[test]
fn a_glob_that_is_none_is_refused_without_the_characters_that_it_has() {
    for glob in ["[\u{1b}-\u{1}]", "[\u{9b}-a]", "[z-\u{7f}-\u{1}]"] {
        if let Err(error) = Selection::new(&[glob.to_owned()], &[]) {
            assert!(is_sentence(&error.to_string()), "{error}");
        }
    }
}
