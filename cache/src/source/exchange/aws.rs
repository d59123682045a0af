//! AWS STS, `AssumeRoleWithWebIdentity` (API version 2011-06-15): a form goes in, XML comes out. The call is not signed; the
//! token says who asks, and the role's trust policy whether they may.

use std::time::SystemTime;

use http::header;
use serde::Deserialize;

use super::call::{Answer, Endpoint};
use super::{Aws, Failure, Granted, life_until};
use crate::error::Kind;
use crate::path::Escaped;
use crate::source::config::SourceConfig;
use crate::source::connector::Transport;
use crate::source::credentials::Keys;
use crate::source::{Error, date, outcome};

/// The only version of the API that there is.
const VERSION: &str = "2011-06-15";

/// Asks for the keys of one role.
#[derive(Debug)]
pub(super) struct Client {
    endpoint: Endpoint,
    role: Aws,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    assume_role_with_web_identity_result: Assumed,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Assumed {
    credentials: Written,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    access_key_id: String,
    secret_access_key: String,
    session_token: String,
    expiration: String,
}

impl Client {
    pub(super) fn new(role: &Aws, config: &SourceConfig) -> Result<Self, Error> {
        let region = config.region.as_deref().unwrap_or("us-east-1");
        let china = if region.starts_with("cn-") { ".cn" } else { "" };
        let own = format!("https://sts.{region}.amazonaws.com{china}");
        Ok(Self {
            endpoint: Endpoint::new(role.endpoint.as_deref(), &own, config)?,
            role: role.clone(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.endpoint.host
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        vec![self.endpoint.name()]
    }

    pub(super) async fn ask(
        &self,
        transport: &Transport,
        token: &str,
        now: SystemTime,
    ) -> Result<Granted, Failure> {
        let seconds = self.role.duration.as_secs().to_string();
        let mut request = self.endpoint.form(
            "/",
            &[
                ("Action", "AssumeRoleWithWebIdentity"),
                ("Version", VERSION),
                ("RoleArn", &self.role.role_arn),
                ("RoleSessionName", &self.role.session_name),
                ("DurationSeconds", &seconds),
                ("WebIdentityToken", token),
            ],
        )?;
        // STS answers XML to whoever does not insist on JSON.
        request.headers_mut().remove(header::ACCEPT);
        let answer = self.endpoint.send(transport, request).await?;
        if answer.status.is_success() {
            self.read(&answer, now)
        } else {
            Err(self.refused(&answer))
        }
    }

    fn read(&self, answer: &Answer, now: SystemTime) -> Result<Granted, Failure> {
        let response: Response = quick_xml::de::from_str(answer.text())
            .map_err(|_| self.endpoint.nonsense("no credentials are in it"))?;
        let Written {
            access_key_id,
            secret_access_key,
            session_token,
            expiration,
        } = response.assume_role_with_web_identity_result.credentials;
        let end = date::parse_rfc3339(&expiration).map(date::system_time);
        let life = end.and_then(|end| life_until(end, now, self.role.duration));
        let life = life.ok_or_else(|| {
            self.endpoint
                .nonsense("the keys have expired already; set this node's clock")
        })?;
        if access_key_id.is_empty() || secret_access_key.is_empty() {
            return Err(self.endpoint.nonsense("the keys are empty"));
        }
        let keys = Keys {
            id: access_key_id,
            secret: secret_access_key,
            token: Some(session_token),
        };
        Ok(Granted { keys, life })
    }

    fn refused(&self, answer: &Answer) -> Failure {
        let code = outcome::find_code(&answer.body);
        let code = code.as_deref();
        let role = format!("role {}", Escaped(&self.role.role_arn));
        let advise = |kind, advice| self.endpoint.advice(kind, &role, code, advice);
        match code {
            Some("AccessDenied" | "IDPRejectedClaim") => advise(
                Kind::Denied,
                "its trust policy must allow sts:AssumeRoleWithWebIdentity to this service account",
            ),
            Some("InvalidIdentityToken") => advise(
                Kind::Unauthenticated,
                "register the cluster's issuer as an OIDC provider of the account, for the token's audience",
            ),
            Some("ExpiredToken" | "ExpiredTokenException") => advise(
                Kind::Unauthenticated,
                "the pod's token has expired; kubelet brings a new one when it mounts a volume",
            ),
            Some("IDPCommunicationError") => advise(
                Kind::Transient,
                "it cannot reach the cluster's issuer; this is tried again by itself",
            ),
            Some("ValidationError") => advise(
                Kind::Invalid,
                "correct roleArn and durationSeconds, which the role limits",
            ),
            Some("RegionDisabledException") => advise(
                Kind::Denied,
                "activate STS in this region, or name another endpoint",
            ),
            Some("Throttling" | "ThrottlingException" | "RequestLimitExceeded") => advise(
                Kind::Transient,
                "it asks to slow down; this is tried again by itself",
            ),
            Some(_) | None => self.endpoint.refusal(answer.status, code, &role),
        }
    }
}
