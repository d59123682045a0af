//! Secrets of a request: tokens as kubelet writes them and as nobody should, and sentences that keep quiet about them.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use proptest::prelude::*;
use serde_json::{Value, json};
use tonnage_csi::access::token::Token;
use tonnage_csi::identity::tokens::{Missing, PodToken};
use tonnage_csi::identity::{Secrets, TOKENS};

use super::values::value;
use super::words::{is_sentence, settings, text};

const OURS: &str = "csi.tonnage.dev";

fn secrets(tokens: &str) -> Secrets {
    Secrets::new(HashMap::from([(TOKENS.to_owned(), tokens.to_owned())]))
}

fn audience() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(OURS.to_owned()), 2 => "[a-z.]{1,6}", 1 => text()]
}

fn tokens() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(audience(), "~[!-~]{0,30}", 0..8)
}

proptest! {
    #![proptest_config(settings(512))]

    #[test]
    fn a_token_is_found_by_its_audience_alone(
        tokens in tokens(),
        wanted in audience(),
        time in prop_oneof![Just("2026-11-27T03:44:23Z".to_owned()), text()],
    ) {
        let written: BTreeMap<&String, Value> = tokens
            .iter()
            .map(|(audience, token)| (audience, json!({"token": token, "expirationTimestamp": time})))
            .collect();
        let secrets = secrets(&serde_json::to_string(&written).unwrap());
        match PodToken::of_request(&secrets, &wanted) {
            Ok(found) => {
                prop_assert_eq!(Some(&found.text), tokens.get(&wanted));
                prop_assert_eq!(found.expires.is_some(), time.starts_with("2026-11-27T"));
                let shown = format!("{found:?}");
                prop_assert!(!shown.contains('~'), "{}", shown);
            }
            Err(Missing::All) => prop_assert!(tokens.is_empty()),
            Err(missing) => {
                prop_assert!(!tokens.contains_key(&wanted));
                let others = Missing::Audience(tokens.keys().cloned().collect());
                prop_assert_eq!(&missing, &others);
                prop_assert!(is_sentence(&missing.others()), "{}", missing.others());
            }
        }
    }

    #[test]
    fn what_kubelet_does_not_write_is_refused_in_a_sentence_that_shows_nothing_of_it(
        written in prop_oneof![value().prop_map(|value| value.to_string()), text()],
        rest in value(),
    ) {
        let nested = json!({OURS: rest, "~": {"token": "~"}}).to_string();
        for text in [written, nested] {
            let secrets = secrets(&text);
            match Token::of_request(&secrets) {
                Ok(token) => {
                    let shown = format!("{token:?}");
                    prop_assert!(is_sentence(&shown), "{}", shown);
                    if let Err(refusal) = token.check_time(SystemTime::UNIX_EPOCH) {
                        prop_assert!(is_sentence(&refusal.to_string()));
                    }
                }
                Err(refusal) => {
                    prop_assert!(is_sentence(&refusal.to_string()), "{}", refusal);
                }
            }
        }
    }

    #[test]
    fn no_secret_is_left_in_a_text(
        values in proptest::collection::vec("[0-9]{6,12}", 1..4),
        nested in "[0-9]{6,12}",
        around in "[0-9a-c]{0,6}",
    ) {
        let mut map: HashMap<String, String> = values
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("key{index}"), value.clone()))
            .collect();
        map.insert("json".to_owned(), json!({"a": [{"b": nested}]}).to_string());
        let secrets = Secrets::new(map);
        let text = format!("{around}{}{around}{nested}{around}", values.concat());
        let shown = secrets.redact(&text);
        for value in values.iter().chain([&nested]) {
            prop_assert!(!shown.contains(value.as_str()), "{}", shown);
        }
        let shown = format!("{secrets:?}");
        prop_assert!(!shown.contains(nested.as_str()), "{}", shown);
    }
}
