//! One question to a service that gives keys: a bounded answer, and what a refusal means. Bodies may hold tokens and repeat
//! them, so of a refusal only the status and a code are shown, and the code only if it looks like one.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use object_store::client::{HttpRequest, HttpRequestBody};
use url::Url;

use super::Failure;
use crate::error::Kind;
use crate::source::Error;
use crate::source::config::SourceConfig;
use crate::source::connector::Transport;

/// Longest time for one exchange, all its questions together.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer in bytes.
const ANSWER_MAX: usize = 256 << 10;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Base URL of a service, checked, without a slash at its end; and its host, for messages.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    base: String,
    pub(super) host: String,
}

impl Endpoint {
    /// The admin's endpoint or the service's own.
    pub(super) fn new(
        written: Option<&str>,
        own: &str,
        config: &SourceConfig,
    ) -> Result<Self, Error> {
        Ok(Self::of(&config.checked_endpoint(written.unwrap_or(own))?))
    }

    /// An endpoint that needs no check.
    pub(super) fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        Self {
            base: url.as_str().trim_end_matches('/').to_owned(),
            host: match url.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            },
        }
    }

    /// The host without a port, as connections name it.
    pub(super) fn name(&self) -> String {
        let url = Url::parse(&self.base).ok();
        let host = url.as_ref().and_then(Url::host_str);
        host.unwrap_or_default().to_owned()
    }

    /// A failure of this service.
    pub(super) fn failure(&self, kind: Kind, what: impl Into<String>) -> Failure {
        Failure {
            service: self.host.clone(),
            what: what.into(),
            kind,
        }
    }

    /// An answer that is not what the service's documentation says.
    pub(super) fn nonsense(&self, what: &str) -> Failure {
        self.failure(Kind::Transient, format!("its answer is wrong: {what}"))
    }

    /// A refusal whose code says what to do about it.
    pub(super) fn advice(
        &self,
        kind: Kind,
        subject: &str,
        code: Option<&str>,
        advice: &str,
    ) -> Failure {
        let code = code.unwrap_or_default();
        self.failure(kind, format!("it refuses {subject} ({code}): {advice}"))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: HttpRequestBody,
    ) -> Result<HttpRequest, Failure> {
        let uri = Uri::try_from(format!("{}{path}", self.base))
            .map_err(|_| self.failure(Kind::Invalid, "its URL cannot be used"))?;
        let mut request = HttpRequest::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::ACCEPT, JSON);
        Ok(request)
    }

    /// A question without a body.
    pub(super) fn ask(&self, method: Method, path: &str) -> Result<HttpRequest, Failure> {
        self.request(method, path, HttpRequestBody::empty())
    }

    /// A form.
    pub(super) fn form(&self, path: &str, fields: &[(&str, &str)]) -> Result<HttpRequest, Failure> {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let mut request = self.request(Method::POST, path, body.into())?;
        request.headers_mut().insert(header::CONTENT_TYPE, FORM);
        Ok(request)
    }

    /// JSON, from somebody with an access token.
    pub(super) fn json(
        &self,
        path: &str,
        token: &str,
        body: &serde_json::Value,
    ) -> Result<HttpRequest, Failure> {
        let mut request = self.request(Method::POST, path, body.to_string().into())?;
        let bearer = format!("Bearer {token}");
        let bearer = secret(&bearer).ok_or_else(|| self.nonsense("a token of odd characters"))?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.insert(header::AUTHORIZATION, bearer);
        Ok(request)
    }

    /// Sends a request and reads all of its answer.
    pub(super) async fn send(
        &self,
        transport: &Transport,
        request: HttpRequest,
    ) -> Result<Answer, Failure> {
        let failed = |error: Error| self.failure(error.kind(), without_host(&error));
        let reply = transport.send(request).await.map_err(failed)?;
        let status = reply.status;
        let flavor = reply.header("metadata-flavor").map(str::to_owned);
        let body = reply.collect(ANSWER_MAX).await.map_err(failed)?;
        Ok(Answer {
            status,
            flavor,
            body,
        })
    }

    /// What a refusal means, where the service's own code does not say it better.
    pub(super) fn refusal(&self, status: StatusCode, code: Option<&str>, subject: &str) -> Failure {
        let code = match code {
            Some(code) => format!("{}, {code}", status.as_u16()),
            None => format!("status {}", status.as_u16()),
        };
        match status.as_u16() {
            300..=399 => self.failure(
                Kind::Invalid,
                format!("it redirects ({code}), which is never followed: correct its URL"),
            ),
            429 | 503 => self.failure(Kind::Transient, format!("it asks to slow down ({code})")),
            408 | 500..=599 => self.failure(Kind::Transient, format!("it fails ({code})")),
            401 => self.failure(
                Kind::Unauthenticated,
                format!("it does not know who asks for {subject} ({code})"),
            ),
            _ => self.failure(Kind::Denied, format!("it refuses {subject} ({code})")),
        }
    }
}

/// An answer, whatever its status.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The field that only Google's metadata service sends.
    pub(super) flavor: Option<String>,
    pub(super) body: Bytes,
}

impl Answer {
    /// The body as text, if it is text.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    /// The body as JSON, if it is what is expected.
    pub(super) fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// What the transport says; the host is named already.
fn without_host(error: &Error) -> String {
    if let Error::Unavailable { what, .. }
    | Error::Untrusted { what, .. }
    | Error::Protocol { what, .. } = error
    {
        what.clone()
    } else {
        error.to_string()
    }
}

/// A header's value that is not to be shown.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Adds a header field that everyone may see.
pub(super) fn with(
    mut request: HttpRequest,
    name: &'static str,
    value: &'static str,
) -> HttpRequest {
    request.headers_mut().insert(
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    );
    request
}
