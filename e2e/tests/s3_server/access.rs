//! Signatures made by `object_store`, keys that expire, prefixes that are denied.

use super::*;
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};

const OBJECT: &str = "/b/dir/a%20b%2B%C3%A9.txt";

/// Sends what `object_store` signs with `credentials`, after `change`.
async fn signed(
    server: &S3Server,
    credentials: &Credentials,
    line: &str,
    change: impl Fn(String) -> String,
) -> Reply {
    let credential = AwsCredential {
        key_id: credentials.access_key.clone(),
        secret_key: credentials.secret_key.clone(),
        token: credentials.session_token.clone(),
    };
    let (method, path) = line.split_once(' ').unwrap();
    let mut request: HttpRequest = http::Request::builder()
        .method(method)
        .uri(format!("{}{path}", server.endpoint()))
        .body(HttpRequestBody::empty())
        .unwrap();
    AwsAuthorizer::new(&credential, "s3", "eu-west-3")
        .try_authorize(&mut request, None)
        .unwrap();
    let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        format!("{name}: {}\r\n", value.to_str().unwrap())
    };
    let mut headers: String = request.headers().iter().map(header).collect();
    if !request.headers().contains_key("host") {
        headers = format!("Host: {}\r\n{headers}", server.address());
    }
    let headers = headers.replace("host: ", "Host: ");
    send(server, line, &change(headers), b"").await
}

async fn code(server: &S3Server, credentials: &Credentials) -> String {
    signed(server, credentials, &format!("GET {OBJECT}"), |h| h)
        .await
        .code()
}

async fn keyed(credentials: &Credentials) -> S3Server {
    let server = S3Server::builder()
        .credentials(credentials.clone())
        .start()
        .await
        .unwrap();
    server.put("b", "dir/a b+é.txt", "content");
    server
}

#[tokio::test]
async fn what_object_store_signs_is_accepted() {
    let key = Credentials::new("AKIATEST", "secret").with_token("session/token+=");
    let server = keyed(&key).await;
    let reply = signed(&server, &key, &format!("GET {OBJECT}"), |h| h).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "content"));
    let list = "GET /b?list-type=2&prefix=dir%2Fa%20b&encoding-type=url";
    assert_eq!(
        signed(&server, &key, list, |h| h).await.keys(),
        ["dir/a+b%2B%C3%A9.txt"]
    );
    assert_eq!(
        server.wire().log()[0].access_key.as_deref(),
        Some("AKIATEST")
    );
}

#[tokio::test]
async fn a_tampered_request_or_another_secret_or_token_is_refused() {
    let key = Credentials::new("AKIATEST", "secret").with_token("token");
    let server = keyed(&key).await;
    let tampered = signed(&server, &key, &format!("GET {OBJECT}"), |headers| {
        let at = headers.find("Signature=").unwrap() + "Signature=".len();
        let other = if headers.as_bytes()[at] == b'0' {
            "1"
        } else {
            "0"
        };
        format!("{}{other}{}", &headers[..at], &headers[at + 1..])
    })
    .await;
    assert_eq!(
        (tampered.status, tampered.code().as_str()),
        (403, "SignatureDoesNotMatch")
    );
    let wrong_secret = Credentials {
        secret_key: "Secret".to_owned(),
        ..key.clone()
    };
    assert_eq!(code(&server, &wrong_secret).await, "SignatureDoesNotMatch");
    assert_eq!(
        code(&server, &key.clone().with_token("other")).await,
        "InvalidToken"
    );
    assert_eq!(
        code(&server, &Credentials::new("AKIAOTHER", "secret")).await,
        "InvalidAccessKeyId"
    );
    assert_eq!(get(&server, OBJECT, "").await.code(), "AccessDenied");
    assert_eq!(server.wire().total_bytes(), 0);
}

#[tokio::test]
async fn keys_expire_after_a_count_or_at_a_switch_and_can_be_renewed() {
    let key = Credentials::new("AKIATEST", "secret");
    let server = keyed(&key).await;
    server.expire_after("AKIATEST", 1);
    assert_eq!(code(&server, &key).await, "");
    assert_eq!(code(&server, &key).await, "ExpiredToken");
    server.add_credentials(key.clone());
    assert_eq!(code(&server, &key).await, "");
    server.expire("AKIATEST");
    assert_eq!(code(&server, &key).await, "ExpiredToken");
    server.revoke("AKIATEST");
    assert_eq!(code(&server, &key).await, "InvalidAccessKeyId");
    assert_eq!(
        get(&server, OBJECT, "").await.code(),
        "AccessDenied",
        "no key left is not open"
    );
}

#[tokio::test]
async fn prefixes_are_denied_to_all_or_to_one_key() {
    let server = S3Server::builder()
        .credentials(Credentials::new("A", "s"))
        .anonymous()
        .start()
        .await
        .unwrap();
    server.put("b", "open/x", "1");
    server.put("b", "shut/x", "1");
    server.deny("b", "shut/");
    assert_eq!(get(&server, "/b/open/x", "").await.status, 200);
    assert_eq!(get(&server, "/b/shut/x", "").await.code(), "AccessDenied");
    assert_eq!(
        get(&server, "/b?list-type=2&prefix=shut/", "").await.code(),
        "AccessDenied"
    );
    server.allow_all();
    assert_eq!(get(&server, "/b/shut/x", "").await.status, 200);
    server.deny_to("A", "b", "");
    assert_eq!(get(&server, "/b/shut/x", "").await.status, 200);
}
