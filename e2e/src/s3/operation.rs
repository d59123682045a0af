//! What each operation answers, faults in what is said included. How the answer leaves is `connection`'s.

use super::Shared;
use super::answer::{Answer, Body, Refusal};
use super::fault::Plan;
use super::object::{Object, memory};
use super::request::{Op, Request};
use super::{gzip, listing};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

const HTTP_DATE: &[time::format_description::BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// Answers `request` under `plan`.
pub(super) fn answer(shared: &Shared, request: &Request, plan: &Plan) -> Answer {
    let mut answer = decide(shared, request, plan).unwrap_or_else(|refusal| {
        let resource = String::from_utf8_lossy(&request.path);
        refusal.answer(if shared.plain_http { "" } else { &resource })
    });
    if !shared.plain_http {
        answer.set("x-amz-request-id", "TEST000000000000");
    }
    for (name, value) in &plan.headers {
        answer.set(name, value.clone());
    }
    if let Some(length) = plan.claim_length {
        answer.length = length;
    }
    if request.method == "HEAD" {
        answer.body = Body::Empty;
    }
    answer
}

fn decide(shared: &Shared, request: &Request, plan: &Plan) -> Result<Answer, Refusal> {
    if let Some((status, url)) = &plan.redirect {
        let refusal = Refusal::new(
            *status,
            "TemporaryRedirect",
            "Please re-send this request to the specified endpoint",
        );
        return Ok(refusal.answer("").with("Location", url.clone()));
    }
    if let Some((status, code)) = &plan.refuse {
        return Err(Refusal::new(*status, code, "refused by the test"));
    }
    if let Some(len) = plan.huge_error {
        return Ok(Answer::bytes(500, "text/html", vec![b'x'; len]));
    }
    if let Some(file) = &plan.replace {
        shared
            .buckets()
            .put(&request.bucket, &request.key, file.clone());
    }
    if plan.delete {
        shared.buckets().delete(&request.bucket, &request.key);
    }
    shared.access().check(request)?;
    match request.op {
        Op::Get | Op::Head => get(shared, request, plan),
        Op::Put => put(shared, request),
        Op::Delete => delete(shared, request),
        Op::List if shared.plain_http => Err(no_such_key()),
        Op::List => listing::answer(&shared.buckets(), request, plan),
        Op::Other => bucket(shared, request),
    }
}

fn get(shared: &Shared, request: &Request, plan: &Plan) -> Result<Answer, Refusal> {
    let object = find(shared, request)?;
    let etag = plan.etag.as_ref().unwrap_or(&object.etag).clone();
    if !plan.ignore_conditions && !check_conditions(request, &object, &etag)? {
        return Ok(Answer::empty(304).with("ETag", etag));
    }
    let size = object.content.size();
    let range = match request.header("range") {
        Some(text) if !plan.ignore_range => parse_range(text, size)?,
        Some(_) | None => None,
    };
    let status = if range.is_some() { 206 } else { 200 };
    let range = range.unwrap_or(0..size);
    let claimed = plan.claim_size.unwrap_or(size);
    let mut length = range.end - range.start;
    if status == 200 {
        length = claimed;
    }
    let mut answer = Answer {
        status,
        headers: object_headers(&object, etag),
        length: plan.shorten.unwrap_or(length + plan.extra),
        body: Body::Object(Arc::clone(&object), range.clone()),
    };
    if status == 206 {
        let honest = format!("bytes {}-{}/{claimed}", range.start, range.end - 1);
        answer.set(
            "Content-Range",
            plan.content_range.clone().unwrap_or(honest),
        );
    }
    if plan.gzip {
        compress(&mut answer, &object, range)?;
    }
    Ok(answer)
}

fn find(shared: &Shared, request: &Request) -> Result<Arc<Object>, Refusal> {
    let buckets = shared.buckets();
    if buckets.find_bucket(&request.bucket).is_none() {
        return Err(no_such_bucket());
    }
    let version = request.param("versionId");
    let missing = || match version {
        Some(_) => Refusal::new(
            404,
            "NoSuchVersion",
            "The specified version does not exist.",
        ),
        None => no_such_key(),
    };
    buckets
        .find(&request.bucket, &request.key, version)
        .ok_or_else(missing)
}

fn object_headers(object: &Object, etag: String) -> Vec<(&'static str, String)> {
    let mut headers = vec![
        ("ETag", etag),
        ("Last-Modified", http_date(object.modified)),
        ("Accept-Ranges", "bytes".to_owned()),
        ("Content-Type", "binary/octet-stream".to_owned()),
    ];
    headers.extend(
        object
            .version
            .clone()
            .map(|version| ("x-amz-version-id", version)),
    );
    headers
}

fn compress(answer: &mut Answer, object: &Object, range: Range<u64>) -> Result<(), Refusal> {
    let unreadable = |_| Refusal::new(500, "InternalError", "the content is unreadable");
    let bytes: Bytes = gzip::stored(&object.content.read(range).map_err(unreadable)?).into();
    answer.length = bytes.len() as u64;
    answer.body = Body::Bytes(bytes);
    answer.set("Content-Encoding", "gzip");
    Ok(())
}

/// `Ok(false)` is "not modified".
fn check_conditions(request: &Request, object: &Object, etag: &str) -> Result<bool, Refusal> {
    let names = |header: &str| header == "*" || header.split(',').any(|tag| tag.trim() == etag);
    let failed = || {
        let why = "At least one of the pre-conditions you specified did not hold";
        Refusal::new(412, "PreconditionFailed", why)
    };
    match request.header("if-match") {
        Some(tags) if !names(tags) => return Err(failed()),
        Some(_) => {}
        None => {
            let since = request
                .header("if-unmodified-since")
                .and_then(parse_http_date);
            if since.is_some_and(|since| object.modified > since) {
                return Err(failed());
            }
        }
    }
    Ok(!request.header("if-none-match").is_some_and(names))
}

/// One `bytes=` range within `size`; several, or another unit, count as none.
fn parse_range(text: &str, size: u64) -> Result<Option<Range<u64>>, Refusal> {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|t| t.split_once('-')) else {
        return Ok(None);
    };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if last < first => return Ok(None),
        (Ok(first), Ok(last)) => first..size.min(last.saturating_add(1)),
        (Ok(first), Err(_)) if last.is_empty() => first..size,
        (Err(_), Ok(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => return Ok(None),
    };
    if range.start < range.end {
        return Ok(Some(range));
    }
    Err(Refusal::new(
        416,
        "InvalidRange",
        "The requested range is not satisfiable",
    ))
}

fn put(shared: &Shared, request: &Request) -> Result<Answer, Refusal> {
    if shared.buckets().find_bucket(&request.bucket).is_none() {
        return Err(no_such_bucket());
    }
    let object = shared
        .buckets()
        .put(&request.bucket, &request.key, memory(request.body.clone()));
    Ok(Answer::empty(200).with("ETag", object.etag.clone()))
}

fn delete(shared: &Shared, request: &Request) -> Result<Answer, Refusal> {
    if shared.buckets().find_bucket(&request.bucket).is_none() {
        return Err(no_such_bucket());
    }
    shared.buckets().delete(&request.bucket, &request.key);
    Ok(Answer::empty(204))
}

fn bucket(shared: &Shared, request: &Request) -> Result<Answer, Refusal> {
    let exists = shared.buckets().find_bucket(&request.bucket).is_some();
    match request.method.as_str() {
        "PUT" if request.query.is_empty() => {
            shared.buckets().create(&request.bucket);
            Ok(Answer::empty(200))
        }
        "HEAD" if exists => Ok(Answer::empty(200)),
        "GET" if exists && request.param("location").is_some() => {
            let xml = "<?xml version=\"1.0\"?><LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"/>";
            Ok(Answer::bytes(200, "application/xml", xml))
        }
        "GET" | "HEAD" if !exists => Err(no_such_bucket()),
        _ => Err(Refusal::new(
            501,
            "NotImplemented",
            "this server does not implement that",
        )),
    }
}

fn no_such_bucket() -> Refusal {
    Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist")
}

fn no_such_key() -> Refusal {
    Refusal::new(404, "NoSuchKey", "The specified key does not exist.")
}

fn http_date(seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(HTTP_DATE).unwrap_or_default()
}

fn parse_http_date(text: &str) -> Option<i64> {
    let at = PrimitiveDateTime::parse(text, HTTP_DATE).ok()?;
    Some(at.assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_as_http_says() {
        let ok = |text| parse_range(text, 10).unwrap();
        assert_eq!(ok("bytes=0-0"), Some(0..1));
        assert_eq!(ok("bytes=2-"), Some(2..10));
        assert_eq!(ok("bytes=-3"), Some(7..10));
        assert_eq!(ok("bytes=-30"), Some(0..10));
        assert_eq!(ok("bytes=5-99"), Some(5..10));
        assert_eq!(ok("bytes=5-4"), None);
        assert_eq!(ok("bytes=0-1,4-5"), None);
        assert_eq!(ok("lines=0-1"), None);
        assert_eq!(
            parse_range("bytes=10-", 10).unwrap_err().code,
            "InvalidRange"
        );
        assert_eq!(
            parse_range("bytes=-0", 10).unwrap_err().code,
            "InvalidRange"
        );
    }

    #[test]
    fn dates_survive_the_round_trip() {
        assert_eq!(http_date(1_700_000_000), "Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(
            parse_http_date("Tue, 14 Nov 2023 22:13:20 GMT"),
            Some(1_700_000_000)
        );
    }
}
