//! The pod's token, as kubelet hands it over: among the request's secrets, or in the volume context where the `CSIDriver`
//! object has no `serviceAccountTokenInSecrets` (`identity::Secrets::of_request` makes one of both). Whether it is worth
//! anything only the API server knows; here it is found, and not asked about if it expired long ago.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::AUDIENCE;
use crate::identity::tokens::{Missing, PodToken};
use crate::identity::{Secrets, TOKENS};
use crate::policy::Refusal;

/// So much the clocks of a node and of the API server may differ.
const SKEW: Duration = Duration::from_mins(1);

/// A service account's token for our audience. Never shown.
#[derive(Clone)]
pub struct Token {
    text: String,
    /// As kubelet says; `None` if it does not.
    expires: Option<SystemTime>,
}

impl Token {
    /// The token for our audience among those of a request, or what to change so that there is one.
    pub fn of_request(secrets: &Secrets) -> Result<Self, Refusal> {
        match PodToken::of_request(secrets, AUDIENCE) {
            Ok(PodToken { text, expires }) => Ok(Self { text, expires }),
            Err(missing) => Err(Refusal::Unauthenticated(match &missing {
                Missing::All => format!(
                    "kubelet sends no token of the pod's service account: the CSIDriver object needs spec.tokenRequests with audience {AUDIENCE}, and spec.serviceAccountTokenInSecrets: true"
                ),
                Missing::Malformed => format!(
                    "{TOKENS} in the request is not what kubelet writes there; nothing else may set it"
                ),
                Missing::Audience(_) => format!(
                    "kubelet sends the pod's tokens for {} but not for audience {AUDIENCE}: add it to spec.tokenRequests of the CSIDriver object",
                    missing.others()
                ),
            })),
        }
    }

    /// Refuses a token that expired long enough ago for no clock to be blamed. The API server decides about the rest.
    pub fn check_time(&self, now: SystemTime) -> Result<(), Refusal> {
        match self.expires.and_then(|expires| expires.checked_add(SKEW)) {
            Some(end) if end < now => Err(Refusal::Unauthenticated(
                "the pod's token has expired; kubelet brings a new one when it tries again"
                    .to_owned(),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// The text, for the API server alone.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn secrets(tokens: &str) -> Secrets {
        Secrets::new(HashMap::from([(TOKENS.to_owned(), tokens.to_owned())]))
    }

    fn sentence(secrets: &Secrets) -> String {
        match Token::of_request(secrets) {
            Err(Refusal::Unauthenticated(sentence)) => sentence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_token_for_our_audience_is_found_among_others_and_does_not_show() {
        let token = Token::of_request(&secrets(
            r#"{"sts.amazonaws.com":{"token":"canary-1"},"csi.tonnage.dev":{"token":"canary-2","expirationTimestamp":"1970-01-01T00:20:00Z"}}"#,
        ))
        .unwrap();
        assert_eq!(token.as_str(), "canary-2");
        assert_eq!(
            token.expires,
            Some(SystemTime::UNIX_EPOCH + Duration::from_mins(20))
        );
        assert!(!format!("{token:?}").contains("canary"));
    }

    #[test]
    fn a_missing_token_names_the_field_that_brings_it() {
        for none in [Secrets::default(), secrets("{}")] {
            assert_eq!(
                sentence(&none),
                "kubelet sends no token of the pod's service account: the CSIDriver object needs spec.tokenRequests with audience csi.tonnage.dev, and spec.serviceAccountTokenInSecrets: true"
            );
        }
        assert_eq!(
            sentence(&secrets(r#"{"b":{"token":"x"},"a\n":{"token":"y"}}"#)),
            r#"kubelet sends the pod's tokens for "a\n", "b" but not for audience csi.tonnage.dev: add it to spec.tokenRequests of the CSIDriver object"#
        );
        let many =
            r#"{"1":{"token":"x"},"2":{},"3":{},"4":{},"5":{},"csi.tonnage.dev":{"token":""}}"#;
        assert!(sentence(&secrets(many)).contains(r#"for "1", "2", "3", "4" and others but"#));
    }

    #[test]
    fn what_kubelet_did_not_write_is_refused_without_being_shown() {
        for text in [
            "canary-1",
            r#"["canary-1"]"#,
            r#"{"csi.tonnage.dev":"canary-1"}"#,
            r#"{"csi.tonnage.dev":{"token":7,"x":"canary-1"}}"#,
        ] {
            let sentence = sentence(&secrets(text));
            assert!(sentence.contains("is not what kubelet writes"), "{text}");
            assert!(!sentence.contains("canary"), "{sentence}");
        }
    }

    #[test]
    fn a_token_is_expired_a_minute_late_and_without_a_time_never() {
        let token = |time: &str| {
            let written =
                serde_json::json!({AUDIENCE: {"token": "t", "expirationTimestamp": time}});
            Token::of_request(&secrets(&written.to_string())).unwrap()
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let token_of_1970 = token("1970-01-01T00:01:00Z");
        assert_eq!(token_of_1970.check_time(at(120)), Ok(()));
        let late = token_of_1970.check_time(at(121)).unwrap_err();
        assert_eq!(
            late,
            Refusal::Unauthenticated(
                "the pod's token has expired; kubelet brings a new one when it tries again"
                    .to_owned()
            )
        );
        assert_eq!(token("tomorrow").check_time(at(1 << 40)), Ok(()));
    }
}
