//! Whose token it is: a `TokenReview`, and what the API server answers. The token must be for our audience, a service
//! account's, and bound to the very pod and node that a volume is mounted for ([`Reviewed::check_binding`]).
//!
//! The API server's answer repeats the question, token included, and its sentence about a refused one may quote it. So the
//! answer is read here rather than by the client, which logs what it cannot parse, and nothing of it is shown.

use std::fmt;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::client::Body;
use tonnage_cache::error::chain;
use tonnage_cache::path::Escaped;

use super::token::Token;
use super::{AUDIENCE, PATIENCE};
use crate::policy::Refusal;

/// Where reviews are made.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const JSON: &str = "application/json";
/// Longest answer in bytes: the token twice, groups, and much more than that.
const ANSWER_MAX: usize = 1 << 20;

/// What the names of service accounts begin with.
const PREFIX: &str = "system:serviceaccount:";
/// What a bound token says about its pod and node (Kubernetes 1.32 and later say the node).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Asks the API server whose tokens are.
#[derive(Clone)]
pub struct Reviewer {
    client: kube::Client,
}

/// Whom the API server vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reviewed {
    /// Namespace of the service account.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
    /// Its uid; empty if the server does not say.
    pub service_account_uid: String,
    /// Name of the pod that the token was issued for.
    pub pod_name: Option<String>,
    /// Uid of that pod; `None`: the token is bound to none.
    pub pod_uid: Option<String>,
    /// Name of the node of that pod; `None`: the server is too old to say.
    pub node_name: Option<String>,
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Asks this client's API server.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    /// Whose token it is, within 4 s. [`Refusal::Unauthenticated`] if it is not worth anything here, and
    /// [`Refusal::Unavailable`] if that cannot be found out.
    pub async fn review(&self, token: &Token) -> Result<Reviewed, Refusal> {
        match tokio::time::timeout(PATIENCE, self.ask(token)).await {
            Ok(answer) => judge(answer?),
            Err(_) => Err(unknown("it does not answer")),
        }
    }

    async fn ask(&self, token: &Token) -> Result<TokenReviewStatus, Refusal> {
        let request = request(token).ok_or_else(|| unknown("the question cannot be put"))?;
        let response = self.client.send(request).await.map_err(|error| {
            tracing::debug!(error = chain(&error), "a token cannot be reviewed");
            unknown("it cannot be reached")
        })?;
        check_status(response.status())?;
        let body = Limited::new(response.into_body(), ANSWER_MAX);
        let body = body.collect().await;
        let body = body
            .map_err(|_| unknown("its answer broke off"))?
            .to_bytes();
        let review: Option<TokenReview> = serde_json::from_slice(&body).ok();
        review
            .and_then(|review| review.status)
            .ok_or_else(|| unknown("its answer is no TokenReview"))
    }
}

fn request(token: &Token) -> Option<Request<Body>> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            token: Some(token.as_str().to_owned()),
        },
        ..TokenReview::default()
    };
    let body = serde_json::to_vec(&review).ok()?;
    Request::post(PATH)
        .header(CONTENT_TYPE, JSON)
        .header(ACCEPT, JSON)
        .body(Body::from(body))
        .ok()
}

fn check_status(status: StatusCode) -> Result<(), Refusal> {
    match status {
        StatusCode::OK | StatusCode::CREATED => Ok(()),
        StatusCode::FORBIDDEN => Err(Refusal::Unavailable(
            "the API server does not let the driver review tokens: its ClusterRole needs the verb create for tokenreviews in API group authentication.k8s.io"
                .to_owned(),
        )),
        StatusCode::UNAUTHORIZED => Err(unknown("it does not know the driver's own token")),
        status => Err(unknown(&format!("it answers {}", status.as_u16()))),
    }
}

/// Nothing is wrong with the token, as far as anybody knows.
fn unknown(why: &str) -> Refusal {
    Refusal::Unavailable(format!(
        "the API server cannot say now whose token the pod has ({why}); this is tried again by itself"
    ))
}

fn judge(status: TokenReviewStatus) -> Result<Reviewed, Refusal> {
    let TokenReviewStatus {
        audiences,
        authenticated,
        // May quote the token.
        error: _,
        user,
    } = status;
    if authenticated != Some(true) {
        return Err(Refusal::Unauthenticated(format!(
            "the API server does not accept the pod's token for audience {AUDIENCE}: it has expired, it is meant for another audience, or its pod or service account is gone; kubelet brings a new one when it tries again"
        )));
    }
    // A server that knows nothing of audiences accepts any, and names none (TokenReview, `status.audiences`).
    let is_ours = audiences.is_some_and(|audiences| audiences.iter().any(|one| one == AUDIENCE));
    if !is_ours {
        return Err(Refusal::Unauthenticated(format!(
            "the pod's token is not for audience {AUDIENCE}: add it to spec.tokenRequests of the CSIDriver object"
        )));
    }
    user.and_then(reviewed).ok_or_else(|| {
        Refusal::Unauthenticated("the token is not that of a service account".to_owned())
    })
}

fn reviewed(user: UserInfo) -> Option<Reviewed> {
    let username = user.username?;
    let (namespace, name) = username.strip_prefix(PREFIX)?.split_once(':')?;
    if namespace.is_empty() || name.is_empty() || name.contains(':') {
        return None;
    }
    let extra = user.extra.unwrap_or_default();
    let one = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Some(value.clone()),
        Some(_) | None => None,
    };
    Some(Reviewed {
        namespace: namespace.to_owned(),
        service_account: name.to_owned(),
        service_account_uid: user.uid.unwrap_or_default(),
        pod_name: one(POD_NAME),
        pod_uid: one(POD_UID),
        node_name: one(NODE_NAME),
    })
}

impl Reviewed {
    /// The name of the service account as the API server writes it.
    pub fn username(&self) -> String {
        format!("{PREFIX}{}:{}", self.namespace, self.service_account)
    }

    /// Whether it is the token of the pod with this uid, on this node. A server before 1.32 does not say the node.
    pub fn check_binding(&self, pod_uid: &str, node: &str) -> Result<(), Refusal> {
        let Some(own) = &self.pod_uid else {
            return Err(Refusal::Unauthenticated(format!(
                "the token of service account {} is bound to no pod; only the one that kubelet asks for is accepted",
                self.shown()
            )));
        };
        if own != pod_uid {
            return Err(Refusal::Unauthenticated(format!(
                "the token is that of pod {} with uid {}, but the volume is mounted for the pod with uid {}",
                Escaped(self.pod_name.as_deref().unwrap_or_default()),
                Escaped(own),
                Escaped(pod_uid)
            )));
        }
        match self.node_name.as_deref() {
            Some(elsewhere) if elsewhere != node => Err(Refusal::Unauthenticated(format!(
                "the token is that of a pod on node {}, but this is node {}",
                Escaped(elsewhere),
                Escaped(node)
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// `namespace/name`.
    fn shown(&self) -> String {
        format!("{}/{}", self.namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn user(username: &str, extra: &[(&str, &[&str])]) -> UserInfo {
        let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        let extra: BTreeMap<String, Vec<String>> = extra
            .iter()
            .map(|(key, all)| ((*key).to_owned(), values(all)))
            .collect();
        UserInfo {
            username: Some(username.to_owned()),
            uid: Some("sa-uid".to_owned()),
            extra: Some(extra),
            ..UserInfo::default()
        }
    }

    fn verdict(user: UserInfo) -> TokenReviewStatus {
        TokenReviewStatus {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            authenticated: Some(true),
            error: None,
            user: Some(user),
        }
    }

    #[test]
    fn a_service_account_and_its_binding_are_read_from_the_verdict() {
        let extra: &[(&str, &[&str])] = &[
            (POD_NAME, &["web"]),
            (POD_UID, &["3f2a"]),
            (NODE_NAME, &["node-1"]),
        ];
        let reviewed = judge(verdict(user("system:serviceaccount:team-a:default", extra))).unwrap();
        assert_eq!(
            reviewed,
            Reviewed {
                namespace: "team-a".to_owned(),
                service_account: "default".to_owned(),
                service_account_uid: "sa-uid".to_owned(),
                pod_name: Some("web".to_owned()),
                pod_uid: Some("3f2a".to_owned()),
                node_name: Some("node-1".to_owned()),
            }
        );
        assert_eq!(reviewed.username(), "system:serviceaccount:team-a:default");
    }

    #[test]
    fn whoever_is_no_service_account_is_nobody() {
        for name in [
            "admin",
            "system:node:node-1",
            "system:serviceaccount:team-a",
            "system:serviceaccount::default",
            "system:serviceaccount:team-a:",
            "system:serviceaccount:team-a:b:c",
        ] {
            assert_eq!(reviewed(user(name, &[])), None, "{name}");
        }
        let nameless = TokenReviewStatus {
            user: None,
            ..verdict(UserInfo::default())
        };
        assert_eq!(
            judge(nameless),
            Err(Refusal::Unauthenticated(
                "the token is not that of a service account".to_owned()
            ))
        );
    }

    #[test]
    fn a_server_that_does_not_confirm_the_audience_is_not_believed() {
        let name = "system:serviceaccount:team-a:default";
        for audiences in [
            None,
            Some(Vec::new()),
            Some(vec!["https://kubernetes.default.svc".to_owned()]),
        ] {
            let status = TokenReviewStatus {
                audiences,
                ..verdict(user(name, &[]))
            };
            let Err(Refusal::Unauthenticated(sentence)) = judge(status) else {
                panic!("accepted");
            };
            assert_eq!(
                sentence,
                "the pod's token is not for audience csi.tonnage.dev: add it to spec.tokenRequests of the CSIDriver object"
            );
        }
    }

    #[test]
    fn a_token_belongs_to_the_pod_of_the_target_on_this_node_alone() {
        let bound = |extra: &[(&str, &[&str])]| {
            reviewed(user("system:serviceaccount:team-a:default", extra))
                .unwrap()
                .check_binding("3f2a", "node-1")
        };
        let refused = |extra: &[(&str, &[&str])]| match bound(extra) {
            Err(Refusal::Unauthenticated(sentence)) => sentence,
            other => panic!("{other:?}"),
        };
        let here = (POD_UID, &["3f2a"][..]);
        assert_eq!(bound(&[here, (NODE_NAME, &["node-1"])]), Ok(()));
        // Servers before 1.32.
        assert_eq!(bound(&[here]), Ok(()));
        assert_eq!(
            refused(&[here, (NODE_NAME, &["node-2"])]),
            r#"the token is that of a pod on node "node-2", but this is node "node-1""#
        );
        assert_eq!(
            refused(&[(POD_NAME, &["web"]), (POD_UID, &["77"])]),
            r#"the token is that of pod "web" with uid "77", but the volume is mounted for the pod with uid "3f2a""#
        );
        let unbound = "the token of service account team-a/default is bound to no pod; only the one that kubelet asks for is accepted";
        assert_eq!(refused(&[]), unbound);
        assert_eq!(refused(&[(POD_UID, &["3f2a", "77"])]), unbound);
    }
}
