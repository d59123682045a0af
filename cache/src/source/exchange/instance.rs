//! The word of the instance that this runs on, as its metadata service gives it: EC2 (version 2 of the service alone, which asks
//! for a session first), Compute Engine and GKE, Azure. All of them are at one link-local address, which the address rules let
//! nobody use; this file's own transport reaches that address and no other ([`Transport::to_instance`]).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use serde::Deserialize;
use url::Url;

use super::call::{Answer, Endpoint, secret, with};
use super::{Failure, Granted, Instance, LIFE_MAX, life_until};
use crate::error::Kind;
use crate::gate::Gate;
use crate::source::config::SourceConfig;
use crate::source::connector::Transport;
use crate::source::credentials::Keys;
use crate::source::place::Scheme;
use crate::source::{Error, date};

/// Where all three clouds have it.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// What EC2's service wants to be called with (it answers to the address alone), and Azure's.
const BY_ADDRESS: &str = "http://169.254.169.254";
/// What Google's service wants to be called.
const BY_NAME: &str = "http://metadata.google.internal";

/// Asks for the keys of the instance.
#[derive(Debug)]
pub(super) struct Client {
    cloud: Cloud,
    endpoint: Endpoint,
    /// Whether the service is where the cloud has it.
    is_own: bool,
}

#[derive(Debug, Clone, Copy)]
enum Cloud {
    Ec2,
    Gce,
    Azure,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfEc2 {
    code: String,
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

#[derive(Deserialize)]
struct OfGce {
    access_token: String,
    expires_in: u64,
}

/// Azure writes numbers as text.
#[derive(Deserialize)]
struct OfAzure {
    access_token: String,
    expires_in: String,
}

impl Client {
    pub(super) fn new(
        instance: &Instance,
        store: Scheme,
        config: &SourceConfig,
    ) -> Result<Self, Error> {
        let (cloud, own) = match store {
            Scheme::S3 => (Cloud::Ec2, BY_ADDRESS),
            Scheme::Gcs => (Cloud::Gce, BY_NAME),
            Scheme::Azure => (Cloud::Azure, BY_ADDRESS),
            Scheme::Http | Scheme::File => {
                return Err(Error::Reference(format!(
                    "source {} cannot be read with the identity of an instance: only s3, gs and az URLs can",
                    config.label()
                )));
            }
        };
        let endpoint = match &instance.endpoint {
            Some(written) => Endpoint::new(Some(written), own, config)?,
            // Plain http by nature, whatever the source allows.
            None => Endpoint::of(
                &Url::parse(own)
                    .map_err(|_| Error::Reference("the metadata service has no URL".to_owned()))?,
            ),
        };
        Ok(Self {
            cloud,
            endpoint,
            is_own: instance.endpoint.is_none(),
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.endpoint.host
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        vec![self.endpoint.name()]
    }

    /// The way to the service: that address and nothing else, or, where the admin names another, what the source's rules allow.
    /// No proxy is on it: one would ask for the identity of its own instance.
    pub(super) fn transport(&self, config: &SourceConfig, gate: Arc<dyn Gate>) -> Transport {
        if self.is_own {
            Transport::to_instance(config, gate, ADDRESS, &self.endpoint.host)
        } else {
            Transport::direct(config, gate)
        }
    }

    pub(super) async fn ask(
        &self,
        transport: &Transport,
        now: SystemTime,
    ) -> Result<Granted, Failure> {
        match self.cloud {
            Cloud::Ec2 => self.ask_ec2(transport, now).await,
            Cloud::Gce => self.ask_gce(transport).await,
            Cloud::Azure => self.ask_azure(transport).await,
        }
    }

    async fn ask_ec2(&self, transport: &Transport, now: SystemTime) -> Result<Granted, Failure> {
        const BASE: &str = "/latest/meta-data/iam/security-credentials/";
        let session = self.endpoint.ask(Method::PUT, "/latest/api/token")?;
        let session = with(session, "x-aws-ec2-metadata-token-ttl-seconds", "60");
        let session = self.send(transport, session).await?;
        let session = secret(session.text().trim())
            .ok_or_else(|| self.endpoint.nonsense("a session of odd characters"))?;
        let get = async |path: &str| {
            let mut request = self.endpoint.ask(Method::GET, path)?;
            let headers = request.headers_mut();
            headers.insert("x-aws-ec2-metadata-token", session.clone());
            self.send(transport, request).await
        };
        let roles = get(BASE).await?;
        let role = roles.text().lines().next().unwrap_or_default().trim();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
        if role.is_empty() || !role.bytes().all(plain) {
            return Err(self.without_identity());
        }
        let answer = get(&format!("{BASE}{role}")).await?;
        let keys: Option<OfEc2> = answer.json();
        let keys = keys.filter(|keys| keys.code == "Success" && !keys.access_key_id.is_empty());
        let keys = keys.ok_or_else(|| self.endpoint.nonsense("no credentials are in it"))?;
        let end = date::parse_rfc3339(&keys.expiration).map(date::system_time);
        let life = end.and_then(|end| life_until(end, now, LIFE_MAX));
        let life = life.ok_or_else(|| {
            self.endpoint
                .nonsense("the keys have expired already; set this node's clock")
        })?;
        let keys = Keys {
            id: keys.access_key_id,
            secret: keys.secret_access_key,
            token: Some(keys.token),
        };
        Ok(Granted { keys, life })
    }

    async fn ask_gce(&self, transport: &Transport) -> Result<Granted, Failure> {
        let path = "/computeMetadata/v1/instance/service-accounts/default/token";
        let request = self.endpoint.ask(Method::GET, path)?;
        let answer = self
            .send(transport, with(request, "metadata-flavor", "Google"))
            .await?;
        // Only Google's own service says this: another one at that address is not believed.
        if answer.flavor.as_deref() != Some("Google") {
            return Err(self
                .endpoint
                .nonsense("it is not Google's metadata service"));
        }
        let token: Option<OfGce> = answer.json();
        let token = token.filter(|one| !one.access_token.is_empty() && one.expires_in > 0);
        let token = token.ok_or_else(|| self.endpoint.nonsense("no access token is in it"))?;
        Ok(Granted {
            keys: Keys::bearer(token.access_token),
            life: Duration::from_secs(token.expires_in).min(LIFE_MAX),
        })
    }

    async fn ask_azure(&self, transport: &Transport) -> Result<Granted, Failure> {
        let path = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F";
        let request = self.endpoint.ask(Method::GET, path)?;
        let answer = self
            .send(transport, with(request, "metadata", "true"))
            .await?;
        let token: Option<OfAzure> = answer.json();
        let token = token.filter(|one| !one.access_token.is_empty());
        let given =
            token.and_then(|one| Some((one.expires_in.parse::<u64>().ok()?, one.access_token)));
        let (seconds, token) = given
            .filter(|(seconds, _)| *seconds > 0)
            .ok_or_else(|| self.endpoint.nonsense("no access token is in it"))?;
        Ok(Granted {
            keys: Keys::bearer(token),
            life: Duration::from_secs(seconds).min(LIFE_MAX),
        })
    }

    /// Sends a request; an answer without what was asked for is a failure.
    async fn send(
        &self,
        transport: &Transport,
        request: object_store::client::HttpRequest,
    ) -> Result<Answer, Failure> {
        let answer = self.endpoint.send(transport, request).await?;
        match (answer.status.as_u16(), self.cloud) {
            (200, _) => Ok(answer),
            // Azure's is not there while it is updated, for 70 seconds at most; who has no identity is told 400.
            (status @ (404 | 410), Cloud::Azure) => Err(self.endpoint.failure(
                Kind::Transient,
                format!("it is being updated (status {status}); this is tried again by itself"),
            )),
            (400 | 404, _) => Err(self.without_identity()),
            (_, _) => {
                let subject = "the instance's identity";
                Err(self.endpoint.refusal(answer.status, None, subject))
            }
        }
    }

    fn without_identity(&self) -> Failure {
        let what = match self.cloud {
            Cloud::Ec2 => "the instance has no role: attach an instance profile to it",
            Cloud::Gce => "the instance has no service account: attach one to it",
            Cloud::Azure => "the instance has no identity: assign a managed identity to it",
        };
        self.endpoint.failure(Kind::Denied, what)
    }
}
