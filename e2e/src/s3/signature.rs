//! Checks AWS Signature Version 4 in the `Authorization` header, from the published description
//! ("Authenticating Requests: Using the Authorization Header"), on the request as it came in.

use super::answer::Refusal;
use super::object::hex;
use super::request::Request;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use ring::{digest, hmac};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const SKEW_LIMIT_MINUTES: i64 = 15;

/// The parts of an `Authorization` header.
struct Authorization<'a> {
    access_key: &'a str,
    /// `date/region/service/aws4_request`.
    scope: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(text: &'a str) -> Option<Authorization<'a>> {
        let fields = text.strip_prefix(ALGORITHM)?.split(',').map(str::trim);
        let field = |name: &str| {
            fields
                .clone()
                .find_map(|f| f.strip_prefix(name)?.strip_prefix('='))
        };
        let credential = field("Credential")?;
        let (access_key, scope) = credential.split_once('/')?;
        Some(Authorization {
            access_key,
            scope,
            signed_headers: field("SignedHeaders")?,
            signature: field("Signature")?,
        })
    }
}

/// The access key that a request claims to be signed with.
pub(super) fn access_key(request: &Request) -> Option<String> {
    let header = request.header("authorization")?;
    Some(Authorization::parse(header)?.access_key.to_owned())
}

/// Verifies the request's signature with `secret`, and its date against `now` unless that is `None`.
pub(super) fn verify(
    request: &Request,
    secret: &str,
    now: Option<OffsetDateTime>,
) -> Result<(), Refusal> {
    let malformed = |why: &str| Refusal::new(400, "AuthorizationHeaderMalformed", why);
    let header = request.header("authorization").unwrap_or_default();
    let given = Authorization::parse(header)
        .ok_or_else(|| malformed("the authorization header is malformed"))?;
    let [date, region, service, "aws4_request"] = given.scope.split('/').collect::<Vec<_>>()[..]
    else {
        return Err(malformed("the credential scope is malformed"));
    };
    if service != "s3" {
        return Err(malformed("the credential scope is not for s3"));
    }
    let stamp = request.header("x-amz-date").unwrap_or_default();
    if !stamp.starts_with(date) || stamp.len() != 16 {
        return Err(malformed(
            "the date in the credential scope is not that of x-amz-date",
        ));
    }
    check_skew(stamp, now)?;
    check_signed_headers(request, given.signed_headers)?;
    let canonical = canonical_request(request, given.signed_headers)?;
    let to_sign = format!(
        "{ALGORITHM}\n{stamp}\n{}\n{}",
        given.scope,
        sha256(canonical.as_bytes())
    );
    let key = [date, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{secret}").into_bytes(), |key, part| {
            mac(&key, part)
        });
    if hex(&mac(&key, &to_sign)) == given.signature {
        return Ok(());
    }
    Err(Refusal::new(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided.",
    ))
}

fn check_skew(stamp: &str, now: Option<OffsetDateTime>) -> Result<(), Refusal> {
    let Some(now) = now else {
        return Ok(());
    };
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let denied = |_| Refusal::new(403, "AccessDenied", "x-amz-date is malformed");
    let at = PrimitiveDateTime::parse(stamp, format)
        .map_err(denied)?
        .assume_utc();
    if (now - at).whole_minutes().abs() <= SKEW_LIMIT_MINUTES {
        return Ok(());
    }
    let why = "The difference between the request time and the server's time is too large.";
    Err(Refusal::new(403, "RequestTimeTooSkewed", why))
}

/// `host` and every `x-amz-*` header must be under the signature.
fn check_signed_headers(request: &Request, signed: &str) -> Result<(), Refusal> {
    let signed: Vec<&str> = signed.split(';').collect();
    let must = |name: &str| name == "host" || name.starts_with("x-amz-");
    let missing = request
        .headers
        .keys()
        .find(|n| must(n.as_str()) && !signed.contains(&n.as_str()));
    missing.map_or(Ok(()), |name| {
        let why =
            format!("There were headers present in the request which were not signed: {name}");
        Err(Refusal::new(403, "AccessDenied", &why))
    })
}

fn canonical_request(request: &Request, signed_headers: &str) -> Result<String, Refusal> {
    let encode = |bytes: &[u8]| percent_encode(bytes, UNRESERVED).to_string();
    let mut query: Vec<_> = request
        .query
        .iter()
        .map(|(n, v)| (encode(n), encode(v)))
        .collect();
    query.sort();
    let query: Vec<_> = query.into_iter().map(|(n, v)| format!("{n}={v}")).collect();
    let mut headers = String::new();
    for name in signed_headers.split(';') {
        let values = request
            .headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok());
        let values: Vec<_> = values
            .map(|v| v.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        headers.extend([name, ":", &values.join(","), "\n"]);
    }
    Ok(format!(
        "{}\n{}\n{}\n{headers}\n{signed_headers}\n{}",
        request.method,
        percent_encode(&request.path, PATH),
        query.join("&"),
        payload_hash(request)?,
    ))
}

fn payload_hash(request: &Request) -> Result<&str, Refusal> {
    let missing = || {
        Refusal::new(
            400,
            "InvalidRequest",
            "Missing required header for this request: x-amz-content-sha256",
        )
    };
    let claimed = request.header("x-amz-content-sha256").ok_or_else(missing)?;
    let unchecked = claimed == "UNSIGNED-PAYLOAD" || claimed.starts_with("STREAMING-");
    if unchecked || claimed == sha256(&request.body) {
        return Ok(claimed);
    }
    let why = "The provided 'x-amz-content-sha256' header does not match what was computed.";
    Err(Refusal::new(400, "XAmzContentSHA256Mismatch", why))
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    async fn request(text: &str) -> Request {
        let mut io = tokio_test_io(text);
        let mut buf = BytesMut::new();
        Request::read(&mut io, &mut buf, &["s3.amazonaws.com".to_owned()])
            .await
            .unwrap()
            .unwrap()
    }

    fn tokio_test_io(
        text: &str,
    ) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + use<> {
        tokio::io::join(
            std::io::Cursor::new(text.as_bytes().to_vec()),
            tokio::io::sink(),
        )
    }

    fn authorization(signed: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders={signed},Signature={signature}"
        )
    }

    /// "Example: GET Object" of the S3 API reference.
    fn get_object(signature: &str) -> String {
        format!(
            "GET /test.txt HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nRange: bytes=0-9\r\n\
             x-amz-content-sha256: {EMPTY}\r\nx-amz-date: 20130524T000000Z\r\nAuthorization: {}\r\n\r\n",
            authorization("host;range;x-amz-content-sha256;x-amz-date", signature)
        )
    }

    const GET_OBJECT: &str = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";

    #[tokio::test]
    async fn the_published_get_object_example_verifies() {
        let request = request(&get_object(GET_OBJECT)).await;
        assert_eq!(
            (request.bucket.as_str(), request.key.as_slice()),
            ("examplebucket", &b"test.txt"[..])
        );
        assert_eq!(verify(&request, SECRET, None), Ok(()));
        assert_eq!(
            verify(&request, "other", None).unwrap_err().code,
            "SignatureDoesNotMatch"
        );
    }

    #[tokio::test]
    async fn a_changed_header_query_or_signature_is_refused() {
        let good = get_object(GET_OBJECT);
        for (from, to) in [
            ("bytes=0-9", "bytes=0-8"),
            ("/test.txt", "/test2.txt"),
            ("/test.txt", "/test.txt?a=b"),
            ("bdb41\r\n", "bdb42\r\n"),
        ] {
            let request = request(&good.replace(from, to)).await;
            assert_eq!(
                verify(&request, SECRET, None).unwrap_err().code,
                "SignatureDoesNotMatch",
                "{to}"
            );
        }
        let unsigned = request(&good.replace("Range:", "x-amz-extra: 1\r\nRange:")).await;
        assert_eq!(
            verify(&unsigned, SECRET, None).unwrap_err().code,
            "AccessDenied"
        );
    }

    #[tokio::test]
    async fn a_date_too_far_from_now_is_refused() {
        let request = request(&get_object(GET_OBJECT)).await;
        let then = time::macros::datetime!(2013-05-24 00:10 UTC);
        assert_eq!(verify(&request, SECRET, Some(then)), Ok(()));
        let later = then + time::Duration::hours(1);
        assert_eq!(
            verify(&request, SECRET, Some(later)).unwrap_err().code,
            "RequestTimeTooSkewed"
        );
    }

    /// "Example: PUT Object": a payload hash and an odd path.
    #[tokio::test]
    async fn the_published_put_object_example_verifies() {
        let body = "Welcome to Amazon S3.";
        let text = format!(
            "PUT /test%24file.text HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nDate: Fri, 24 May 2013 00:00:00 GMT\r\n\
             Content-Length: {}\r\nx-amz-date: 20130524T000000Z\r\nx-amz-storage-class: REDUCED_REDUNDANCY\r\n\
             x-amz-content-sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072\r\nAuthorization: {}\r\n\r\n{body}",
            body.len(),
            authorization(
                "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
            )
        );
        assert_eq!(verify(&request(&text).await, SECRET, None), Ok(()));
        let changed = request(&text.replace("Welcome", "welcome")).await;
        assert_eq!(
            verify(&changed, SECRET, None).unwrap_err().code,
            "XAmzContentSHA256Mismatch"
        );
    }

    /// "Example: GET Bucket (List Objects)": a query.
    #[tokio::test]
    async fn the_published_list_objects_example_verifies() {
        let text = format!(
            "GET /?max-keys=2&prefix=J HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\n\
             x-amz-content-sha256: {EMPTY}\r\nx-amz-date: 20130524T000000Z\r\nAuthorization: {}\r\n\r\n",
            authorization(
                "host;x-amz-content-sha256;x-amz-date",
                "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
            )
        );
        assert_eq!(verify(&request(&text).await, SECRET, None), Ok(()));
    }
}
