//! Decides what a request gets: pure but for opening the file.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;

use super::Shared;
use super::listing;
use super::objects::etag;
use super::request::Request;
use super::shape::Trouble;

/// A head and what follows it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: String,
    pub(super) body: Body,
}

/// What follows a head.
#[derive(Debug)]
pub(super) enum Body {
    /// Bytes of memory; empty after a HEAD.
    Text(String),
    /// Bytes of a file.
    Bytes {
        file: File,
        range: RangeInclusive<u64>,
        trouble: Trouble,
    },
}

/// The answer to a request.
pub(super) fn to(shared: &Shared, request: &Request) -> io::Result<Answer> {
    if let Some(command) = request.path.strip_prefix('_') {
        if command == "reset" {
            shared.counts.reset();
        }
        return Ok(text(200, "OK", "application/json", shared.counts.to_json()));
    }
    let is_head = request.method == "HEAD";
    let (bucket, key) = request
        .path
        .split_once('/')
        .unwrap_or((request.path.as_str(), ""));
    if key.is_empty() {
        if is_head || request.param("location").is_some() {
            let location =
                "<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>";
            let body = if is_head { "" } else { location };
            return Ok(text(200, "OK", "application/xml", body.to_owned()));
        }
        shared
            .counts
            .lists
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let rows = shared.objects.rows(bucket)?;
        let page = listing::page(bucket, &rows, request);
        return Ok(text(200, "OK", "application/xml", page));
    }
    object(shared, request, is_head)
}

fn object(shared: &Shared, request: &Request, is_head: bool) -> io::Result<Answer> {
    let Some((file, metadata)) = shared.objects.open(&request.path)? else {
        return Ok(failure(404, "Not Found", "NoSuchKey", is_head));
    };
    let tag = etag(&metadata);
    if request
        .if_match
        .as_ref()
        .is_some_and(|wanted| *wanted != tag)
    {
        return Ok(failure(
            412,
            "Precondition Failed",
            "PreconditionFailed",
            is_head,
        ));
    }
    let size = metadata.len();
    let Some(range) = request.bytes_of(size) else {
        return Ok(if size == 0 && request.range.is_none() {
            let mut empty = text(200, "OK", "application/octet-stream", String::new());
            empty.head.push_str(&fields(&tag));
            empty
        } else {
            failure(416, "Range Not Satisfiable", "InvalidRange", is_head)
        });
    };
    let trouble = if is_head {
        Trouble::None
    } else {
        shared.shape.next_trouble()
    };
    if trouble == Trouble::Refused {
        return Ok(failure(503, "Slow Down", "SlowDown", is_head));
    }
    let length = range.end() - range.start() + 1;
    let status = if request.range.is_some() {
        let (first, last) = (range.start(), range.end());
        format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{size}")
    } else {
        "200 OK".to_owned()
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n{}",
        fields(&tag)
    );
    let body = if is_head {
        Body::Text(String::new())
    } else {
        Body::Bytes {
            file,
            range,
            trouble,
        }
    };
    Ok(Answer { head, body })
}

fn fields(tag: &str) -> String {
    format!(
        "ETag: {tag}\r\nAccept-Ranges: bytes\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    )
}

fn text(status: u16, reason: &str, kind: &str, body: String) -> Answer {
    Answer {
        head: format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
            body.len()
        ),
        body: Body::Text(body),
    }
}

fn failure(status: u16, reason: &str, code: &str, is_head: bool) -> Answer {
    let body = if is_head {
        String::new()
    } else {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{reason}</Message></Error>"
        )
    };
    text(status, reason, "application/xml", body)
}
