//! What a claim adds to its `StorageClass`: a path, by annotation. The claim is read once, when its volume is
//! created, and only if the request's name is the one that external-provisioner makes of the claim's uid: a request cannot
//! speak for another claim, nor for an earlier one of the same name.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use tonnage_cache::error::{Kind, chain};
use tonnage_cache::path::Escaped;

use crate::volume::{self, Attributes};

/// The annotation with a path below that of the `StorageClass`.
pub const PATH: &str = "tonnage.dev/path";

/// Longest wait for the API server; the provisioner itself waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest name of an object (RFC 1123 subdomain).
const NAME_MAX: usize = 253;

/// Reads claims.
#[derive(Clone)]
pub struct Claims {
    client: kube::Client,
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims").finish_non_exhaustive()
    }
}

/// Why a claim does not say what it wants.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No object can have this name.
    #[error("{} is not a name of a claim or namespace", Escaped(.0))]
    Name(String),
    /// It is gone.
    #[error("claim {claim} does not exist any more")]
    Gone {
        /// Namespace and name.
        claim: String,
    },
    /// The request is not the provisioner's for this claim.
    #[error(
        "volume {} was not asked for by claim {claim}, whose uid {} is not the end of that name: the claim was made anew meanwhile, or the provisioner runs with --volume-name-uuid-length, which it must not",
        Escaped(request),
        Escaped(uid)
    )]
    Other {
        /// Namespace and name.
        claim: String,
        /// Its uid.
        uid: String,
        /// The request's name.
        request: String,
    },
    /// Its annotation is no path.
    #[error("annotation {PATH} of claim {claim}")]
    Path {
        /// Namespace and name.
        claim: String,
        /// What is wrong.
        source: volume::Error,
    },
    /// The controller's service account may not.
    #[error(
        "the API server does not let the controller read claim {claim}: its ClusterRole needs the verb get for persistentvolumeclaims"
    )]
    Forbidden {
        /// Namespace and name.
        claim: String,
    },
    /// The API server does not answer.
    #[error("claim {claim} cannot be read now ({why}); this is tried again by itself")]
    Unavailable {
        /// Namespace and name.
        claim: String,
        /// Why not.
        why: String,
    },
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name(_) => Kind::Invalid,
            Self::Gone { .. } => Kind::NotFound,
            Self::Other { .. } => Kind::Conflict,
            Self::Path { source, .. } => source.kind(),
            Self::Forbidden { .. } => Kind::Denied,
            Self::Unavailable { .. } => Kind::Transient,
        }
    }
}

impl Claims {
    /// Claims of this client's API server.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// The path that a claim asks for below that of its `StorageClass`, checked; empty if it asks for none. `request` is the
    /// name of the `CreateVolume` request.
    pub async fn get_path(
        &self,
        namespace: &str,
        name: &str,
        request: &str,
    ) -> Result<String, Error> {
        for text in [namespace, name] {
            if !is_name(text) {
                return Err(Error::Name(text.to_owned()));
            }
        }
        let claim = format!("{namespace}/{name}");
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let answer = tokio::time::timeout(PATIENCE, api.get_metadata_opt(name)).await;
        let metadata = match answer {
            Ok(Ok(Some(object))) => object.metadata,
            Ok(Ok(None)) => return Err(Error::Gone { claim }),
            Ok(Err(error)) => return Err(failure(claim, &error)),
            Err(_) => {
                let why = format!("no answer within {} s", PATIENCE.as_secs());
                return Err(Error::Unavailable { claim, why });
            }
        };
        let uid = metadata.uid.unwrap_or_default();
        if !is_of(request, &uid) {
            return Err(Error::Other {
                claim,
                uid,
                request: request.to_owned(),
            });
        }
        let annotations = metadata.annotations.unwrap_or_default();
        let written = annotations.get(PATH).map_or("", String::as_str);
        below("", written).map_err(|source| Error::Path { claim, source })
    }
}

/// One path below another; either may be empty.
pub fn below(base: &str, path: &str) -> Result<String, volume::Error> {
    let whole = match (base, path) {
        ("", path) => path.to_owned(),
        (base, "") => base.to_owned(),
        (base, path) => format!("{base}/{path}"),
    };
    let map = HashMap::from([
        // Something must be named; only the path is looked at.
        ("source".to_owned(), "any".to_owned()),
        ("path".to_owned(), whole),
    ]);
    Ok(Attributes::parse(&map)?.path)
}

/// Whether this is the name that external-provisioner gives to the volume of the claim with this uid: a prefix, a hyphen,
/// the uid (sig-storage-lib-external-provisioner, `getProvisionedVolumeNameForClaim`; external-provisioner, `makeVolumeName`).
fn is_of(request: &str, uid: &str) -> bool {
    let prefix = request
        .strip_suffix(uid)
        .and_then(|rest| rest.strip_suffix('-'));
    !uid.is_empty() && prefix.is_some_and(|prefix| !prefix.is_empty())
}

/// Names go into a URL's path, so that nothing but a name may.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<u8>| byte.is_some_and(plain);
    text.len() <= NAME_MAX
        && ends(text.bytes().next())
        && ends(text.bytes().next_back())
        && text
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
}

fn failure(claim: String, error: &kube::Error) -> Error {
    if let kube::Error::Api(status) = error {
        if status.is_forbidden() {
            return Error::Forbidden { claim };
        }
        let why = format!("status {}: {}", status.code, status.message);
        return Error::Unavailable { claim, why };
    }
    tracing::debug!(error = chain(error), claim, "a claim cannot be read");
    Error::Unavailable {
        claim,
        why: "the API server cannot be reached".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock::Handle;

    use super::*;

    type Server = Handle<Request<Body>, Response<Body>>;

    const UID: &str = "0b2ffb6c-3c0e-4b0a-9d3e-0f6f3f1f7c11";

    fn claims() -> (Claims, Server) {
        let (service, server) = tower_test::mock::pair();
        (Claims::new(kube::Client::new(service, "tonnage")), server)
    }

    fn claim(annotations: &Value) -> (u16, Value) {
        let claim = json!({
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadata",
            "metadata": {"name": "llama", "namespace": "team", "uid": UID, "annotations": annotations},
        });
        (200, claim)
    }

    fn refusal(code: u16, reason: &str) -> (u16, Value) {
        let status = json!({"kind": "Status", "status": "Failure", "message": "so it is", "reason": reason, "code": code});
        (code, status)
    }

    /// Asks for the path of `team/llama` while the server gives one answer.
    async fn asked(request: &str, (status, body): (u16, Value)) -> Result<String, Error> {
        let (claims, mut server) = claims();
        let story = async {
            let (request, respond) = server.next_request().await.unwrap();
            assert_eq!(request.method(), "GET");
            assert_eq!(
                request.uri().path(),
                "/api/v1/namespaces/team/persistentvolumeclaims/llama"
            );
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            respond.send_response(Response::builder().status(status).body(body).unwrap());
        };
        tokio::join!(claims.get_path("team", "llama", request), story).0
    }

    #[tokio::test]
    async fn a_claim_asks_for_a_path_or_for_none() {
        let name = format!("pvc-{UID}");
        for (annotations, path) in [
            (json!({"tonnage.dev/path": "llama-3.1-8b"}), "llama-3.1-8b"),
            (json!({"tonnage.dev/path": "a/b/"}), "a/b"),
            (json!({"tonnage.dev/path": ""}), ""),
            (json!({"other": "x"}), ""),
            (Value::Null, ""),
        ] {
            assert_eq!(asked(&name, claim(&annotations)).await.unwrap(), path);
        }
    }

    #[tokio::test]
    async fn a_path_that_leads_elsewhere_is_refused_by_annotation_and_claim() {
        let name = format!("pvc-{UID}");
        for path in ["../secrets", "/etc", "a//b", "."] {
            let annotations = json!({"tonnage.dev/path": path});
            let error = asked(&name, claim(&annotations)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{path}");
            let text = chain(&error);
            let start = "annotation tonnage.dev/path of claim team/llama: attribute path=";
            assert!(text.starts_with(start), "{text}");
        }
    }

    #[tokio::test]
    async fn a_request_speaks_for_no_claim_but_the_one_it_is_named_after() {
        for name in [
            "pvc-1",
            UID,
            &format!("-{UID}"),
            &format!("pvc-{UID}x"),
            &format!("pvc{UID}"),
        ] {
            let error = asked(name, claim(&json!({}))).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict, "{name}");
            assert!(error.to_string().contains("team/llama"), "{error}");
        }
        let named = asked(&format!("tonnage-{UID}"), claim(&json!({}))).await;
        assert_eq!(named.unwrap(), "");
        assert!(!is_of("pvc-", ""));
    }

    #[tokio::test]
    async fn what_the_api_server_says_becomes_a_kind_and_a_sentence() {
        let name = format!("pvc-{UID}");
        for (code, reason, kind, words) in [
            (404, "NotFound", Kind::NotFound, "does not exist any more"),
            (
                403,
                "Forbidden",
                Kind::Denied,
                "needs the verb get for persistentvolumeclaims",
            ),
            (
                500,
                "InternalError",
                Kind::Transient,
                "(status 500: so it is)",
            ),
        ] {
            let error = asked(&name, refusal(code, reason)).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_api_server_is_not_waited_for_and_a_name_that_is_none_is_not_asked_for() {
        let (claims, server) = claims();
        let error = claims.get_path("team", "llama", "pvc-1").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Transient);
        assert!(error.to_string().contains("no answer within 5 s"));
        drop(server);
        for (namespace, name) in [
            ("team", "../secrets/x"),
            ("", "llama"),
            ("team", ".."),
            ("team", "a?b"),
        ] {
            let error = claims.get_path(namespace, name, "pvc-1").await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
        }
    }

    #[test]
    fn paths_are_joined_and_checked_as_one() {
        assert_eq!(below("", "").unwrap(), "");
        assert_eq!(below("models", "").unwrap(), "models");
        assert_eq!(below("models", "llama/8b").unwrap(), "models/llama/8b");
        let deep = "a/".repeat(40);
        let deep = deep.trim_end_matches('/');
        assert!(below("", deep).is_ok());
        assert!(below(deep, deep).is_err());
    }
}
