//! What an error response means: status and the store's code to [`Error`]. Of a server's body only its code is
//! ever shown, and only if it looks like one; bodies and URLs may hold tokens.

use http::StatusCode;

use super::connector::Reply;
use super::{Entry, Error, answer};
use crate::path::Escaped;

/// Most bytes of an error body that are read.
const BODY_MAX: usize = 64 << 10;
/// Longest code of a store.
const CODE_MAX: usize = 64;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked<'a> {
    /// A listing of this place.
    Listing(&'a str),
    /// Bytes of this entry.
    Object(&'a Entry),
}

impl Asked<'_> {
    fn subject(self) -> String {
        match self {
            Self::Listing(place) => place.to_owned(),
            Self::Object(entry) => Escaped(&entry.key).to_string(),
        }
    }
}

/// Reads an error response to its end and says what it means.
pub(super) async fn refuse(reply: Reply, asked: Asked<'_>) -> Error {
    let status = reply.status;
    let region = reply
        .header("x-amz-bucket-region")
        .and_then(code)
        .map(str::to_owned);
    let named = reply
        .header("x-ms-error-code")
        .and_then(code)
        .map(str::to_owned);
    let named = match named {
        Some(named) => Some(named),
        None => match reply.collect(BODY_MAX).await {
            Ok(body) => find_code(&body),
            Err(_) => None,
        },
    };
    if status.is_redirection() {
        let hint = region.map_or_else(
            || "check region and endpoint".to_owned(),
            |region| format!("the bucket is in region {region}"),
        );
        return Error::Reference(format!(
            "{}: the store redirects ({}), which signed requests never follow: {hint}",
            asked.subject(),
            status.as_u16()
        ));
    }
    of_status(status, named.as_deref(), asked)
}

/// The code in the XML of an error.
pub(super) fn find_code(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (found, _) = rest.split_once("</Code>")?;
    code(found.trim()).map(str::to_owned)
}

/// The text, if it looks like a code of a store.
pub(super) fn code(text: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (!text.is_empty() && text.len() <= CODE_MAX && text.bytes().all(plain)).then_some(text)
}

/// The credentials are the cause, whatever the status.
const CREDENTIALS: [&str; 13] = [
    "AccessKeyIdNotFound",
    "AuthenticationFailed",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "InvalidSecurity",
    "InvalidToken",
    "NoAuthenticationInformation",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];

/// The store asks for fewer requests, whatever the status.
const THROTTLES: [&str; 6] = [
    "RequestLimitExceeded",
    "ServerBusy",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
];

/// What a status and the store's code mean.
fn of_status(status: StatusCode, named: Option<&str>, asked: Asked<'_>) -> Error {
    let subject = asked.subject();
    let code = named.map_or_else(|| format!("status {}", status.as_u16()), str::to_owned);
    if CREDENTIALS.contains(&code.as_str()) {
        return Error::Unauthenticated { subject, code };
    }
    if THROTTLES.contains(&code.as_str()) {
        return Error::Throttled { subject, code };
    }
    match (status.as_u16(), asked) {
        (401, _) => Error::Unauthenticated { subject, code },
        (403, _) => Error::Denied { subject, code },
        (404 | 410, Asked::Listing(_)) => Error::NotFound(subject),
        (404 | 410 | 412 | 416, Asked::Object(entry)) => answer::changed(entry),
        (429 | 503, _) => Error::Throttled { subject, code },
        (408 | 500..=599, _) => Error::Unavailable {
            subject,
            what: format!("the store fails ({code})"),
        },
        _ => Error::Protocol {
            key: subject,
            what: code,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::path::RelPath;
    use crate::source::Version;

    fn kinds(status: u16, named: Option<&str>) -> (Kind, Kind, bool) {
        let entry = Entry {
            path: RelPath::parse("k").unwrap(),
            key: "k".to_owned(),
            size: 1,
            version: Version::default(),
        };
        let status = StatusCode::from_u16(status).unwrap();
        let listing = of_status(status, named, Asked::Listing("bucket \"b\""));
        let object = of_status(status, named, Asked::Object(&entry));
        (listing.kind(), object.kind(), object.is_retryable())
    }

    #[test]
    fn every_status_has_its_kind() {
        use Kind::{Denied, NotFound, Transient, Unauthenticated};
        for (status, named, expected) in [
            (404, Some("NoSuchBucket"), (NotFound, Transient, false)),
            (404, None, (NotFound, Transient, false)),
            (412, None, (Transient, Transient, false)),
            (416, Some("InvalidRange"), (Transient, Transient, false)),
            (401, None, (Unauthenticated, Unauthenticated, false)),
            (403, Some("AccessDenied"), (Denied, Denied, false)),
            (
                403,
                Some("ExpiredToken"),
                (Unauthenticated, Unauthenticated, false),
            ),
            (
                400,
                Some("ExpiredToken"),
                (Unauthenticated, Unauthenticated, false),
            ),
            (
                403,
                Some("SignatureDoesNotMatch"),
                (Unauthenticated, Unauthenticated, false),
            ),
            (429, None, (Transient, Transient, true)),
            (503, Some("SlowDown"), (Transient, Transient, true)),
            (500, Some("InternalError"), (Transient, Transient, true)),
            (502, None, (Transient, Transient, true)),
            (400, Some("BadRequest"), (Transient, Transient, true)),
        ] {
            assert_eq!(kinds(status, named), expected, "{status} {named:?}");
        }
    }

    #[test]
    fn of_a_body_only_a_plain_code_is_taken() {
        assert_eq!(
            find_code(b"<Error><Code>SlowDown</Code><Message>x").as_deref(),
            Some("SlowDown")
        );
        assert_eq!(find_code(b"<Error><Code>canary secret</Code>"), None);
        assert_eq!(find_code(b"\xff<Code>A</Code>"), None);
        assert_eq!(find_code(b"canary"), None);
    }
}
