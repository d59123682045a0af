//! Microsoft Entra ID: the pod's token is the assertion of an application, or of a user-assigned identity, with a federated
//! credential for it (OAuth 2.0 client credentials with a JWT, RFC 7523, `oauth2/v2.0/token`).

use std::time::Duration;

use serde::Deserialize;

use super::call::{Answer, Endpoint};
use super::{Azure, Failure, Granted, LIFE_MAX};
use crate::error::Kind;
use crate::path::Escaped;
use crate::source::config::SourceConfig;
use crate::source::connector::Transport;
use crate::source::credentials::Keys;
use crate::source::place::bad;
use crate::source::{Error, outcome};

/// The right to what the identity may do in Azure Storage.
const SCOPE: &str = "https://storage.azure.com/.default";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Asks for tokens of one identity.
#[derive(Debug)]
pub(super) struct Client {
    authority: Endpoint,
    identity: Azure,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    token_type: String,
    expires_in: u64,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_codes: Vec<u64>,
}

impl Client {
    pub(super) fn new(identity: &Azure, config: &SourceConfig) -> Result<Self, Error> {
        // Both go into a URL as they are.
        for id in [&identity.tenant_id, &identity.client_id] {
            let plain =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if id.is_empty() || !id.bytes().all(plain) {
                return Err(bad(id, "is no id of Microsoft Entra ID"));
            }
        }
        let written = identity.authority.as_deref();
        Ok(Self {
            authority: Endpoint::new(written, "https://login.microsoftonline.com", config)?,
            identity: identity.clone(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.authority.host
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        vec![self.authority.name()]
    }

    pub(super) async fn ask(&self, transport: &Transport, token: &str) -> Result<Granted, Failure> {
        let request = self.authority.form(
            &format!("/{}/oauth2/v2.0/token", self.identity.tenant_id),
            &[
                ("grant_type", "client_credentials"),
                ("client_id", &self.identity.client_id),
                ("scope", SCOPE),
                ("client_assertion_type", ASSERTION),
                ("client_assertion", token),
            ],
        )?;
        let answer = self.authority.send(transport, request).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer));
        }
        let given: Option<Given> = answer.json();
        let is_good = |one: &Given| {
            one.token_type.eq_ignore_ascii_case("bearer")
                && !one.access_token.is_empty()
                && one.expires_in > 0
        };
        let given = given.filter(is_good);
        let given = given.ok_or_else(|| self.authority.nonsense("no access token is in it"))?;
        Ok(Granted {
            keys: Keys::bearer(given.access_token),
            life: Duration::from_secs(given.expires_in).min(LIFE_MAX),
        })
    }

    fn refused(&self, answer: &Answer) -> Failure {
        let refused: Option<Refused> = answer.json();
        let named = refused.as_ref().and_then(|one| outcome::code(&one.error));
        let number = refused
            .as_ref()
            .and_then(|one| one.error_codes.first().copied());
        let identity = format!("client {}", Escaped(&self.identity.client_id));
        // The number says what the word does not, and is what the documentation is searched for.
        let code = match (named, number) {
            (Some(named), Some(number)) => Some(format!("{named}, AADSTS{number}")),
            (Some(named), None) => Some(named.to_owned()),
            (None, _) => None,
        };
        let code = code.as_deref();
        let advise = |kind, advice| self.authority.advice(kind, &identity, code, advice);
        match named {
            Some("invalid_client" | "invalid_grant") => advise(
                Kind::Unauthenticated,
                "give it a federated credential with the cluster's issuer, this service account as subject, and the token's audience",
            ),
            Some("unauthorized_client") => {
                advise(Kind::Denied, "correct azure.clientId and azure.tenantId")
            }
            Some("temporarily_unavailable" | "server_error") => {
                advise(Kind::Transient, "this is tried again by itself")
            }
            Some("invalid_request" | "invalid_scope") => {
                advise(Kind::Invalid, "correct azure.clientId and azure.tenantId")
            }
            Some(_) | None => self.authority.refusal(answer.status, code, &identity),
        }
    }
}
