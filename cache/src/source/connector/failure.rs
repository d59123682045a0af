//! Short sentences for what goes wrong on a connection. Only kinds of errors are looked at: texts of lower
//! layers may carry URLs and are never shown.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use super::Target;
use crate::source::Error;

pub(super) fn unavailable(target: &Target, what: &str) -> Error {
    Error::Unavailable {
        subject: target.to_string(),
        what: what.to_owned(),
    }
}

/// A failure of the proxy on the way to the target.
pub(super) fn of_proxy(target: &Target, proxy: &Target, what: &str) -> Error {
    unavailable(target, &format!("the proxy {proxy} cannot be used: {what}"))
}

/// An error of a connection to the proxy, said of the target. A refusal says itself whom it is about.
pub(super) fn at_proxy(target: &Target, proxy: &Target, error: Error) -> Error {
    if let Error::Unavailable { what, .. } = error {
        of_proxy(target, proxy, &what)
    } else {
        error
    }
}

pub(super) fn silent(target: &Target, wait: Duration) -> Error {
    unavailable(target, &format!("the server was silent for {wait:?}"))
}

pub(super) fn ended_early(target: &Target) -> Error {
    unavailable(target, "the connection ended too early")
}

const SENTENCES: [(io::ErrorKind, &str); 8] = [
    (io::ErrorKind::ConnectionRefused, "connection refused"),
    (io::ErrorKind::ConnectionReset, "the connection was cut"),
    (io::ErrorKind::ConnectionAborted, "the connection was cut"),
    (io::ErrorKind::BrokenPipe, "the connection was cut"),
    (io::ErrorKind::TimedOut, "the connection timed out"),
    (io::ErrorKind::HostUnreachable, "the host cannot be reached"),
    (
        io::ErrorKind::NetworkUnreachable,
        "the network cannot be reached",
    ),
    (
        io::ErrorKind::UnexpectedEof,
        "the connection ended too early",
    ),
];

pub(super) fn of_io(target: &Target, error: &io::Error) -> Error {
    if let Some(tls) = find::<rustls::Error>(error) {
        return super::tls::refusal(target, tls);
    }
    let kind = error.kind();
    match SENTENCES.iter().find(|(known, _)| *known == kind) {
        Some((_, what)) => unavailable(target, what),
        None => unavailable(target, &format!("the connection failed ({kind:?})")),
    }
}

pub(super) fn of_hyper(target: &Target, error: &hyper::Error) -> Error {
    if error.is_parse_too_large() {
        return Error::Protocol {
            key: target.to_string(),
            what: format!("header fields of more than {} bytes", super::HEAD_MAX),
        };
    }
    if error.is_parse() {
        return Error::Protocol {
            key: target.to_string(),
            what: "it is not HTTP/1.1".to_owned(),
        };
    }
    match find::<io::Error>(error) {
        Some(io) => of_io(target, io),
        None => ended_early(target),
    }
}

/// The first error of a type among an error and what it wraps.
pub(super) fn find<'a, T: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref::<T>() {
            return Some(found);
        }
        // An io::Error hides what it wraps from `source`.
        next = match current
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => current.source(),
        };
    }
    None
}
