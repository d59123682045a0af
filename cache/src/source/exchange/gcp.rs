//! Google Cloud, workload identity federation: the Security Token Service takes the pod's token for an access token of the
//! pool's principal (OAuth 2.0 Token Exchange, RFC 8693, `v1/token`), and where a service account is named, IAM Credentials
//! take that one for a token of the service account (`generateAccessToken`).

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::json;

use super::call::{Answer, Endpoint};
use super::{Failure, Gcp, Granted, life_until};
use crate::error::Kind;
use crate::path::Escaped;
use crate::source::config::SourceConfig;
use crate::source::connector::Transport;
use crate::source::credentials::Keys;
use crate::source::place::bad;
use crate::source::{Error, date, outcome};

/// The right to read objects, and no more.
const READ: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// What a principal must be able to call to impersonate.
const PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Longest life of a token without a policy that allows more.
const LIFE: Duration = Duration::from_hours(1);

/// Asks for tokens of one pool's principals.
#[derive(Debug)]
pub(super) struct Client {
    tokens: Endpoint,
    impersonation: Endpoint,
    pool: Gcp,
}

#[derive(Deserialize)]
struct Exchanged {
    access_token: String,
    token_type: String,
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    access_token: String,
    expire_time: String,
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// Google's own shape of errors (`google.rpc.Status`).
#[derive(Deserialize)]
struct RefusedByApi {
    error: Status,
}

#[derive(Deserialize)]
struct Status {
    status: String,
}

impl Client {
    pub(super) fn new(pool: &Gcp, config: &SourceConfig) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"@-._".contains(&byte);
        if let Some(account) = &pool.service_account
            && !account.bytes().all(plain)
        {
            return Err(bad(account, "is no mail address of a service account"));
        }
        let endpoint =
            |written: &Option<String>, own| Endpoint::new(written.as_deref(), own, config);
        Ok(Self {
            tokens: endpoint(&pool.token_endpoint, "https://sts.googleapis.com")?,
            impersonation: endpoint(
                &pool.impersonation_endpoint,
                "https://iamcredentials.googleapis.com",
            )?,
            pool: pool.clone(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.tokens.host
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        let services = [&self.tokens, &self.impersonation];
        services.map(Endpoint::name).into()
    }

    pub(super) async fn ask(
        &self,
        transport: &Transport,
        token: &str,
        now: SystemTime,
    ) -> Result<Granted, Failure> {
        let exchanged = self.exchange(transport, token).await?;
        match &self.pool.service_account {
            None => Ok(Granted {
                keys: Keys::bearer(exchanged.access_token),
                life: Duration::from_secs(exchanged.expires_in).min(LIFE),
            }),
            Some(account) => {
                let token = exchanged.access_token;
                self.impersonate(transport, account, &token, now).await
            }
        }
    }

    async fn exchange(&self, transport: &Transport, token: &str) -> Result<Exchanged, Failure> {
        let scope = match self.pool.service_account {
            Some(_) => PLATFORM,
            None => READ,
        };
        let request = self.tokens.form(
            "/v1/token",
            &[
                (
                    "grant_type",
                    "urn:ietf:params:oauth:grant-type:token-exchange",
                ),
                ("audience", &self.pool.audience),
                ("scope", scope),
                (
                    "requested_token_type",
                    "urn:ietf:params:oauth:token-type:access_token",
                ),
                ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
                ("subject_token", token),
            ],
        )?;
        let answer = self.tokens.send(transport, request).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer));
        }
        let exchanged: Option<Exchanged> = answer.json();
        let is_good = |one: &Exchanged| {
            one.token_type.eq_ignore_ascii_case("bearer")
                && !one.access_token.is_empty()
                && one.expires_in > 0
        };
        let exchanged = exchanged.filter(is_good);
        exchanged.ok_or_else(|| self.tokens.nonsense("no access token is in it"))
    }

    async fn impersonate(
        &self,
        transport: &Transport,
        account: &str,
        token: &str,
        now: SystemTime,
    ) -> Result<Granted, Failure> {
        let path = format!("/v1/projects/-/serviceAccounts/{account}:generateAccessToken");
        let lifetime = format!("{}s", LIFE.as_secs());
        let body = json!({"scope": [READ], "lifetime": lifetime});
        let request = self.impersonation.json(&path, token, &body)?;
        let answer = self.impersonation.send(transport, request).await?;
        if !answer.status.is_success() {
            return Err(self.not_impersonated(&answer, account));
        }
        let made: Option<Impersonated> = answer.json();
        let made = made.filter(|made| !made.access_token.is_empty());
        let made = made.ok_or_else(|| self.impersonation.nonsense("no access token is in it"))?;
        let end = date::parse_rfc3339(&made.expire_time).map(date::system_time);
        let life = end.and_then(|end| life_until(end, now, LIFE));
        let life = life.ok_or_else(|| {
            self.impersonation
                .nonsense("the token has expired already; set this node's clock")
        })?;
        Ok(Granted {
            keys: Keys::bearer(made.access_token),
            life,
        })
    }

    fn refused(&self, answer: &Answer) -> Failure {
        let refused: Option<Refused> = answer.json();
        let code = refused.as_ref().and_then(|one| outcome::code(&one.error));
        let pool = format!("pool {}", Escaped(&self.pool.audience));
        let advise = |kind, advice| self.tokens.advice(kind, &pool, code, advice);
        match code {
            Some("invalid_grant") => advise(
                Kind::Unauthenticated,
                "its provider must have the cluster's issuer, allow the token's audience, and its condition must hold for this service account",
            ),
            Some("invalid_target" | "invalid_request") => advise(
                Kind::Invalid,
                "correct gcp.audience, the full name of the pool's provider",
            ),
            Some("unauthorized_client" | "access_denied") => advise(
                Kind::Denied,
                "its provider's condition does not hold for this service account",
            ),
            Some(_) | None => self.tokens.refusal(answer.status, code, &pool),
        }
    }

    fn not_impersonated(&self, answer: &Answer, account: &str) -> Failure {
        let refused: Option<RefusedByApi> = answer.json();
        let code = refused
            .as_ref()
            .and_then(|one| outcome::code(&one.error.status));
        let subject = format!("service account {}", Escaped(account));
        match code {
            Some(code @ "PERMISSION_DENIED") => self.impersonation.failure(
                Kind::Denied,
                format!("it refuses {subject} ({code}): give the pool's principal the role roles/iam.workloadIdentityUser on it"),
            ),
            Some(code @ "NOT_FOUND") => self.impersonation.failure(
                Kind::Invalid,
                format!("it knows no {subject} ({code}): correct gcp.serviceAccount"),
            ),
            Some(_) | None => self.impersonation.refusal(answer.status, code, &subject),
        }
    }
}
