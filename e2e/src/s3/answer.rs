//! What is sent back: a status, headers, a body; and a refusal in S3's words.

use super::object::Object;
use bytes::Bytes;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

/// A response before faults shape how it leaves.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    /// `Content-Length` as claimed.
    pub(super) length: u64,
    pub(super) body: Body,
}

/// What follows the head.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Empty,
    Bytes(Bytes),
    Object(Arc<Object>, Range<u64>),
}

impl Answer {
    pub(super) fn empty(status: u16) -> Answer {
        Answer {
            status,
            headers: Vec::new(),
            length: 0,
            body: Body::Empty,
        }
    }

    pub(super) fn bytes(status: u16, kind: &str, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        Answer {
            status,
            headers: vec![("Content-Type", kind.to_owned())],
            length: body.len() as u64,
            body: Body::Bytes(body),
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.set(name, value);
        self
    }

    /// Sets a header in the place of an earlier one of that name.
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.headers.retain(|(n, _)| *n != name);
        self.headers.push((name, value.into()));
    }

    pub(super) fn head(&self, keep_alive: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let _ = write!(head, "Connection: {connection}\r\n");
        if !matches!(self.status, 204 | 304) {
            let _ = write!(head, "Content-Length: {}\r\n", self.length);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason())
        .unwrap_or("Unknown")
}

/// Why S3 says no: its status, code and sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: u16, code: &str, message: &str) -> Refusal {
        Refusal {
            status,
            code: code.to_owned(),
            message: message.to_owned(),
        }
    }

    pub(super) fn answer(&self, resource: &str) -> Answer {
        let xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>\
             <Resource>{}</Resource><RequestId>TEST000000000000</RequestId></Error>",
            escape(self.code.as_bytes()),
            escape(self.message.as_bytes()),
            escape(resource.as_bytes()),
        );
        Answer::bytes(self.status, "application/xml", xml)
    }
}

/// XML text; bytes that are not UTF-8 become U+FFFD, control characters references.
pub(super) fn escape(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in String::from_utf8_lossy(raw).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => {
                let _ = write!(out, "&#x{:X};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}
