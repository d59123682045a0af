//! What commands ask a cluster's API server, and why it did not tell, in a sentence. Objects of our own kinds are read as JSON:
//! one that a newer version wrote must not hide the others.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;
use tonnage_cache::path::Escaped;

use crate::exit::{Code, Failure};

/// Objects of one answer.
const PAGE: u32 = 500;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of the cluster of the pod's service account, or of KUBECONFIG.
pub(super) async fn client() -> Result<Client, Failure> {
    let config = Box::pin(Config::infer())
        .await
        .map_err(|error| unusable(&error))?;
    Client::try_from(config).map_err(|error| unusable(&error))
}

fn unusable(error: &dyn fmt::Display) -> Failure {
    Failure::new(Code::Usage, "reach the API server", error.to_string())
        .or_advise("run in a pod with a service account token, or set KUBECONFIG")
}

/// A client of the cluster of a context of the kubeconfig.
async fn client_of(context: &str) -> Result<Client, Failure> {
    let options = KubeConfigOptions {
        context: Some(context.to_owned()),
        ..KubeConfigOptions::default()
    };
    let unusable = |error: &dyn fmt::Display| {
        let what = format!("find context {} of the kubeconfig", Escaped(context));
        Failure::new(Code::Usage, what, error.to_string())
            .or_advise("`kubectl config get-contexts` lists them")
    };
    let config = Box::pin(Config::from_kubeconfig(&options))
        .await
        .map_err(|error| unusable(&error))?;
    Client::try_from(config).map_err(|error| unusable(&error))
}

/// A cluster.
pub(super) struct Cluster {
    client: Client,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    /// The cluster of a context of the kubeconfig; without one, of KUBECONFIG or the pod's service account.
    pub(super) async fn connect(context: Option<&str>) -> Result<Self, Failure> {
        match context {
            Some(context) => client_of(context).await,
            None => client().await,
        }
        .map(Self::of)
    }

    /// The cluster of a client.
    pub(super) fn of(client: Client) -> Self {
        Self { client }
    }

    /// All objects of a kind, of one namespace or of all.
    pub(super) async fn list<K>(&self, namespace: Option<&str>) -> Result<Vec<Value>, Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        let kind = ApiResource::erase::<K>(&());
        let client = self.client.clone();
        let api = match namespace {
            Some(namespace) => Api::<DynamicObject>::namespaced_with(client, namespace, &kind),
            None => Api::<DynamicObject>::all_with(client, &kind),
        };
        pages(&api, kind.plural.clone(), ListParams::default()).await
    }

    /// All objects of a kind that have labels, in all namespaces.
    pub(super) async fn list_labelled<K>(&self, labels: &str) -> Result<Vec<Value>, Failure>
    where
        K: Resource<DynamicType = ()>,
    {
        let kind = ApiResource::erase::<K>(&());
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &kind);
        let params = ListParams::default().labels(labels);
        pages(&api, kind.plural.clone(), params).await
    }

    /// The labels of a namespace.
    pub(super) async fn labels(
        &self,
        namespace: &str,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let found = self.find::<Namespace>(namespace).await?;
        let none = || missing("Namespace", namespace, "name its labels with --labels");
        let Namespace { metadata, .. } = found.ok_or_else(none)?;
        Ok(metadata.labels.unwrap_or_default())
    }

    /// One object of the cluster by name.
    pub(super) async fn find<K>(&self, name: &str) -> Result<Option<K>, Failure>
    where
        K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned,
    {
        let api = Api::<K>::all(self.client.clone());
        let what = Asked {
            verb: "get",
            what: K::plural(&()).into_owned(),
        };
        what.within(api.get_opt(name)).await
    }
}

/// Reads a list to its end.
async fn pages(
    api: &Api<DynamicObject>,
    plural: String,
    params: ListParams,
) -> Result<Vec<Value>, Failure> {
    let what = Asked {
        verb: "list",
        what: plural,
    };
    let mut objects = Vec::new();
    let mut params = params.limit(PAGE);
    loop {
        let page = what.within(api.list(&params)).await?;
        for object in page.items {
            objects.push(serde_json::to_value(object).map_err(|error| {
                Failure::new(Code::Internal, what.to_string(), error.to_string())
            })?);
        }
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        let Some(token) = next else {
            return Ok(objects);
        };
        params = params.continue_token(&token);
    }
}

/// Something that is named is not there.
pub(super) fn missing(kind: &str, name: &str, remedy: &str) -> Failure {
    let what = format!("find {kind} {}", Escaped(name));
    Failure::new(Code::Missing, what, "the cluster has none of that name").or_advise(remedy)
}

/// A question, for messages.
struct Asked {
    verb: &'static str,
    what: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of the cluster", self.verb, self.what)
    }
}

impl Asked {
    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        match timeout(PATIENCE, answer).await {
            Ok(Ok(told)) => Ok(told),
            Ok(Err(error)) => Err(self.untold(error)),
            Err(_) => Err(self.unavailable("the API server does not answer")),
        }
    }

    fn untold(&self, error: kube::Error) -> Failure {
        if let kube::Error::SerdeError(error) = error {
            return Failure::new(Code::Data, self.to_string(), error.to_string())
                .or_advise("what it answers may be of a newer version than this program");
        }
        let kube::Error::Api(status) = error else {
            return self.unavailable(error.to_string());
        };
        let Self { verb, what } = self;
        match status.code {
            401 => Failure::new(Code::Credentials, self.to_string(), status.message)
                .or_advise("sign in to the cluster again"),
            403 => Failure::new(Code::Denied, self.to_string(), status.message).or_advise(format!(
                "ask an administrator for the verb {verb} on {what}"
            )),
            404 => {
                let why = "the cluster does not know this resource";
                Failure::new(Code::Missing, self.to_string(), why)
                    .or_advise("install Tonnage's chart, or a newer one")
            }
            code => self.unavailable(format!("status {code}: {}", status.message)),
        }
    }

    fn unavailable(&self, why: impl Into<String>) -> Failure {
        Failure::new(Code::Unavailable, self.to_string(), why).or_advise("try again")
    }
}

/// API servers with a script, for tests of commands.
#[cfg(test)]
pub(super) mod scripted {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// A list as the API server answers it.
    pub(in crate::command) fn list(items: &Value) -> (u16, Value) {
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
        (200, list)
    }

    /// Fails unless the document has the names of all fields of a result.
    #[track_caller]
    pub(in crate::command) fn documented(json: &Value) {
        const DOCUMENT: &str =
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/asking.md"));
        for (name, value) in json.as_object().into_iter().flatten() {
            let shapes = [
                format!("`{name}`"),
                format!("`{name}[]`"),
                format!("`[{name}]`"),
                format!("`[{name}[]]`"),
            ];
            assert!(
                shapes.iter().any(|shape| DOCUMENT.contains(shape.as_str())),
                "docs/asking.md does not say what {name} is"
            );
            documented(value);
        }
        json.as_array().into_iter().flatten().for_each(documented);
    }

    /// A refusal.
    pub(in crate::command) fn refusal(code: u16, reason: &str) -> (u16, Value) {
        let status = json!({"kind": "Status", "status": "Failure", "message": "so it is", "reason": reason, "code": code});
        (code, status)
    }

    /// Asks beside an API server that gives these answers in turn, and says what it was asked.
    pub(in crate::command) async fn beside<T>(
        answers: Vec<(u16, Value)>,
        ask: impl AsyncFnOnce(Cluster) -> T,
    ) -> (T, Vec<String>) {
        let (service, mut server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let cluster = Cluster::of(Client::new(service, "default"));
        let mut questions = Vec::new();
        let serve = async {
            for (status, body) in answers {
                let (request, respond) = server.next_request().await.unwrap();
                questions.push(format!("{} {}", request.method(), request.uri()));
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                respond.send_response(Response::builder().status(status).body(body).unwrap());
            }
            std::future::pending::<()>().await;
        };
        let told = tokio::select! {
            told = ask(cluster) => told,
            () = serve => unreachable!(),
        };
        (told, questions)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tonnage_csi::crd::{CacheQuota, EgressPolicy, Source};

    use super::scripted::{beside, list, refusal};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_pages_are_read_also_objects_of_a_newer_version() {
        let page = |name: &str, next: &str| {
            let list = json!({
                "apiVersion": "v1",
                "kind": "List",
                "metadata": {"continue": next},
                "items": [{"metadata": {"name": name}, "spec": {"mode": "Nap"}}],
            });
            (200, list)
        };
        let answers = vec![page("a", "more"), page("b", "")];
        let (told, questions) = beside(answers, async |cluster| {
            cluster.list::<EgressPolicy>(None).await
        })
        .await;
        let told = told.unwrap();
        assert_eq!(told[0]["metadata"]["name"], "a");
        assert_eq!(told[1]["spec"]["mode"], "Nap");
        assert_eq!(
            questions,
            [
                "GET /apis/tonnage.dev/v1alpha1/egresspolicies?&limit=500",
                "GET /apis/tonnage.dev/v1alpha1/egresspolicies?&limit=500&continue=more"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_s_objects_are_asked_for_alone() {
        let (told, questions) = beside(vec![list(&json!([]))], async |cluster| {
            cluster.list::<CacheQuota>(Some("team-a")).await
        })
        .await;
        assert_eq!(told.unwrap(), Vec::<Value>::new());
        assert_eq!(
            questions,
            ["GET /apis/tonnage.dev/v1alpha1/namespaces/team-a/cachequotas?&limit=500"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn why_nothing_was_told_is_one_sentence() {
        for (answer, code, sentence) in [
            (
                refusal(401, "Unauthorized"),
                67,
                "tonnage: list egresspolicies of the cluster: so it is; sign in to the cluster again",
            ),
            (
                refusal(403, "Forbidden"),
                77,
                "tonnage: list egresspolicies of the cluster: so it is; ask an administrator for the verb list on egresspolicies",
            ),
            (
                refusal(404, "NotFound"),
                66,
                "tonnage: list egresspolicies of the cluster: the cluster does not know this resource; install Tonnage's chart, or a newer one",
            ),
            (
                refusal(500, "InternalError"),
                69,
                "tonnage: list egresspolicies of the cluster: status 500: so it is; try again",
            ),
        ] {
            let (told, _) = beside(vec![answer], async |cluster| {
                cluster.list::<EgressPolicy>(None).await
            })
            .await;
            let failure = told.unwrap_err();
            assert_eq!(failure.code.number(), code);
            assert_eq!(failure.to_string(), sentence);
        }
        let (told, _) = beside(Vec::new(), async |cluster| {
            cluster.list::<EgressPolicy>(None).await
        })
        .await;
        assert_eq!(
            told.unwrap_err().to_string(),
            "tonnage: list egresspolicies of the cluster: the API server does not answer; try again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_cannot_be_read_is_not_asked_for_again() {
        let odd = json!({"apiVersion": "tonnage.dev/v1alpha1", "kind": "Source", "metadata": {"name": "models"}, "spec": 7});
        let (told, _) = beside(vec![(200, odd)], async |cluster| {
            cluster.find::<Source>("models").await
        })
        .await;
        let failure = told.unwrap_err();
        assert_eq!(failure.code, Code::Data);
        let sentence = failure.to_string();
        assert!(
            sentence.starts_with("tonnage: get sources of the cluster: invalid type"),
            "{sentence}"
        );
        assert!(!sentence.contains("try again"), "{sentence}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_is_not_there_is_none() {
        let (told, questions) = beside(vec![refusal(404, "NotFound")], async |cluster| {
            cluster.find::<Source>("models").await
        })
        .await;
        assert_eq!(told.unwrap(), None);
        assert_eq!(questions, ["GET /apis/tonnage.dev/v1alpha1/sources/models"]);
    }
}
