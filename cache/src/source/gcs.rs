//! Google Cloud Storage through its XML API: the listing is S3's, objects are pinned by generation, requests
//! carry an OAuth token or an HMAC key's signature. Tokens for a service account key are exchanged by
//! `object_store`'s provider over our own transport; application default credentials and the metadata service
//! are never asked.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderValue, header};
use object_store::RetryConfig;
use object_store::client::HttpRequest;
use object_store::gcp::{GcpCredentialProvider, GoogleCloudStorageBuilder};

use super::config::{Addressing, Auth, SourceConfig};
use super::connector::Transport;
use super::credentials::{Credentials, Keys, Stamp, read_text};
use super::place::bucket_and_base;
use super::remote::{Dialect, Parts, Remote};
use super::{Error, Source, s3};
use crate::gate::Gate;
use crate::path::Escaped;

/// Where a bucket is and how its requests are signed.
#[derive(Debug)]
pub(super) struct Gcs {
    /// URL of the bucket without a slash at its end.
    base: String,
    account: Option<Account>,
}

/// A service account key in a file, and the provider of tokens made from it.
#[derive(Debug)]
struct Account {
    file: PathBuf,
    transport: Transport,
    provider: Mutex<Option<(Stamp, GcpCredentialProvider)>>,
}

/// The source of a `gs://` configuration.
pub(super) fn build(config: &SourceConfig, gate: Arc<dyn Gate>) -> Result<Arc<dyn Source>, Error> {
    let (bucket, prefix) = bucket_and_base(&config.url)?;
    let base = own_url(config, &bucket)?;
    let file = config.credentials_file.clone();
    let file = file.filter(|_| config.auth == Auth::Files);
    let credentials = match file {
        Some(_) => Credentials::Anonymous,
        None => Credentials::from_config(config, &gate)?,
    };
    let transport = Transport::new(config, gate)?;
    let account = file.map(|file| Account {
        file,
        transport: transport.clone(),
        provider: Mutex::new(None),
    });
    let parts = Parts {
        uid: format!("gs:{base}{}", config.way()),
        place: format!("bucket {}", Escaped(&bucket)),
        base: prefix,
        transport,
        credentials,
        dialect: Dialect::Gcs(Gcs { base, account }),
    };
    Ok(Arc::new(Remote::new(config, parts)))
}

/// URL of the configuration's bucket, without a slash at its end.
pub(super) fn own_url(config: &SourceConfig, bucket: &str) -> Result<String, Error> {
    let endpoint = config
        .endpoint
        .as_deref()
        .unwrap_or("https://storage.googleapis.com");
    let addressing = config.addressing.unwrap_or(Addressing::Path);
    s3::bucket_url(&config.checked_endpoint(endpoint)?, bucket, addressing)
}

impl Gcs {
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn page_url(&self, prefix: &str, token: Option<&str>, most: u32) -> String {
        s3::list_url(
            &self.base,
            &format!("list-type=2&max-keys={most}"),
            prefix,
            token,
        )
    }

    /// Signs by token or HMAC key; nothing if the keys are neither.
    pub(super) async fn sign(
        &self,
        request: &mut HttpRequest,
        keys: Option<&Keys>,
        place: &str,
    ) -> Result<Option<()>, Error> {
        if let Some(account) = &self.account {
            return Ok(bear(request, &account.token(place).await?));
        }
        Ok(match keys {
            None => Some(()),
            Some(Keys {
                id,
                token: Some(token),
                ..
            }) if id.is_empty() => bear(request, token),
            Some(keys) => s3::sign_v4(request, keys, "auto"),
        })
    }
}

/// Signs by an access token.
pub(super) fn bear(request: &mut HttpRequest, token: &str) -> Option<()> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    request.headers_mut().insert(header::AUTHORIZATION, value);
    Some(())
}

impl Account {
    async fn token(&self, place: &str) -> Result<String, Error> {
        let provider = self.provider()?;
        match provider.get_credential().await {
            Ok(credential) => Ok(credential.bearer.clone()),
            Err(error) => Err(exchange_failed(&error, place)),
        }
    }

    fn provider(&self) -> Result<GcpCredentialProvider, Error> {
        let stamp = Stamp::of(&self.file)?;
        let mut provider = self.provider.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, provider)) = &*provider
            && *seen == stamp
        {
            return Ok(Arc::clone(provider));
        }
        let made = make_provider(&self.file, &self.transport)?;
        *provider = Some((stamp, Arc::clone(&made)));
        Ok(made)
    }
}

fn make_provider(file: &Path, transport: &Transport) -> Result<GcpCredentialProvider, Error> {
    let key = read_text(file)?;
    let store = GoogleCloudStorageBuilder::new()
        .with_service_account_key(key)
        .with_bucket_name("unused")
        .with_retry(RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        })
        .with_http_connector(transport.clone())
        .build()
        // The error's text may hold pieces of the key.
        .map_err(|_| Error::Unauthenticated {
            subject: file.display().to_string(),
            code: "not a service account key".to_owned(),
        })?;
    Ok(Arc::clone(store.credentials()))
}

/// Our transport's own error, if it is below; otherwise the token service said no.
fn exchange_failed(error: &(dyn std::error::Error + 'static), place: &str) -> Error {
    let mut next = Some(error);
    while let Some(current) = next {
        match current.downcast_ref::<Error>() {
            Some(Error::Gate(refusal)) => return Error::Gate(refusal.clone()),
            Some(ours) => {
                return Error::Unavailable {
                    subject: place.to_owned(),
                    what: format!("no token for the service account: {ours}"),
                };
            }
            None => next = current.source(),
        }
    }
    Error::Unauthenticated {
        subject: place.to_owned(),
        code: "the token service refuses the service account".to_owned(),
    }
}
