//! From the part of a `Source` that says whom a pod's service account is to be in the cloud, to the exchange that the cache can
//! make. Pure, like [`super::spec`]: what cannot be used is told in a sentence to its administrator.

use std::time::Duration;

use tonnage_cache::source::exchange::{Aws, Azure, Gcp, Instance, Service};

use crate::crd::{
    AuthMode, AwsRole, AzureIdentity, GcpPool, NodeIdentity, SourceAuth, WorkloadIdentity,
};

/// Life of keys that STS gives, unless set otherwise: the shortest that it gives.
const DURATION: Duration = Duration::from_mins(15);
/// Longest that it gives.
const DURATION_MAX: Duration = Duration::from_hours(12);

/// Audiences that the clouds expect unless told otherwise.
const AWS_AUDIENCE: &str = "sts.amazonaws.com";
const AZURE_AUDIENCE: &str = "api://AzureADTokenExchange";

/// Who gives keys for a source; `None` for the modes that exchange nothing. The name of AWS's sessions is empty where the
/// service account is to give it.
pub(super) fn service(auth: &SourceAuth) -> Result<Option<Service>, String> {
    match auth.mode {
        AuthMode::Anonymous | AuthMode::SharedSecret | AuthMode::PodSecret => Ok(None),
        AuthMode::Node => {
            let NodeIdentity { endpoint } = auth.node.clone().unwrap_or_default();
            Ok(Some(Service::Instance(Instance { endpoint })))
        }
        AuthMode::WorkloadIdentity => match auth.workload_identity.as_ref().map(of_cloud) {
            Some(service) => service.map(Some),
            None => Err(
                "auth.workloadIdentity is missing: say there whom a pod's service account is to be in the cloud"
                    .to_owned(),
            ),
        },
    }
}

fn of_cloud(identity: &WorkloadIdentity) -> Result<Service, String> {
    let token_audience = audience(identity);
    let WorkloadIdentity {
        audience: _,
        aws,
        gcp,
        azure,
    } = identity;
    match (aws, gcp, azure) {
        (Some(role), None, None) => of_aws(role, token_audience),
        (None, Some(pool), None) => Ok(of_gcp(pool, token_audience)),
        (None, None, Some(identity)) => Ok(of_azure(identity, token_audience)),
        (Some(_), Some(_), _)
        | (Some(_), _, Some(_))
        | (_, Some(_), Some(_))
        | (None, None, None) => {
            Err("auth.workloadIdentity must have exactly one of aws, gcp and azure".to_owned())
        }
    }
}

fn of_aws(role: &AwsRole, token_audience: String) -> Result<Service, String> {
    let AwsRole {
        role_arn,
        session_name,
        sts_endpoint,
        duration_seconds,
    } = role.clone();
    let duration = match duration_seconds.map(u64::try_from) {
        None => DURATION,
        Some(Ok(seconds)) => Duration::from_secs(seconds),
        Some(Err(_)) => Duration::ZERO,
    };
    if duration < DURATION || duration > DURATION_MAX {
        return Err("aws.durationSeconds must be between 900 and 43200".to_owned());
    }
    Ok(Service::Aws(Aws {
        token_audience,
        role_arn,
        session_name: session_name.unwrap_or_default(),
        endpoint: sts_endpoint,
        duration,
    }))
}

fn of_gcp(pool: &GcpPool, token_audience: String) -> Service {
    let GcpPool {
        audience,
        service_account,
        token_endpoint,
        impersonation_endpoint,
    } = pool.clone();
    Service::Gcp(Gcp {
        token_audience,
        audience,
        service_account,
        token_endpoint,
        impersonation_endpoint,
    })
}

fn of_azure(identity: &AzureIdentity, token_audience: String) -> Service {
    let AzureIdentity {
        tenant_id,
        client_id,
        authority,
    } = identity.clone();
    Service::Azure(Azure {
        token_audience,
        tenant_id,
        client_id,
        authority,
    })
}

/// The audience that a pod's token for the cloud must have.
pub fn audience(identity: &WorkloadIdentity) -> String {
    let WorkloadIdentity {
        audience,
        aws: _,
        gcp,
        azure,
    } = identity;
    match (audience, gcp, azure) {
        (Some(audience), _, _) => audience.clone(),
        (None, Some(pool), _) => format!("https:{}", pool.audience),
        (None, None, Some(_)) => AZURE_AUDIENCE.to_owned(),
        (None, None, None) => AWS_AUDIENCE.to_owned(),
    }
}

/// URLs that the administrator has written.
pub(super) fn endpoints(service: &Service) -> Vec<&str> {
    let written = match service {
        Service::Aws(role) => vec![&role.endpoint],
        Service::Gcp(pool) => vec![&pool.token_endpoint, &pool.impersonation_endpoint],
        Service::Azure(identity) => vec![&identity.authority],
        Service::Instance(instance) => vec![&instance.endpoint],
    };
    written
        .into_iter()
        .filter_map(|url| url.as_deref())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(auth: serde_json::Value) -> SourceAuth {
        serde_json::from_value(auth).unwrap()
    }

    fn of(identity: &serde_json::Value) -> Result<Option<Service>, String> {
        service(&parsed(
            serde_json::json!({"mode": "WorkloadIdentity", "workloadIdentity": identity}),
        ))
    }

    #[test]
    fn every_field_reaches_the_exchange() {
        let aws = serde_json::json!({"aws": {"roleArn": "arn:aws:iam::1:role/r", "sessionName": "s", "stsEndpoint": "https://sts", "durationSeconds": 3600}});
        assert_eq!(
            of(&aws),
            Ok(Some(Service::Aws(Aws {
                token_audience: "sts.amazonaws.com".to_owned(),
                role_arn: "arn:aws:iam::1:role/r".to_owned(),
                session_name: "s".to_owned(),
                endpoint: Some("https://sts".to_owned()),
                duration: Duration::from_hours(1),
            })))
        );
        let gcp = serde_json::json!({"gcp": {"audience": "//iam/p", "serviceAccount": "a@b", "tokenEndpoint": "https://t", "impersonationEndpoint": "https://i"}});
        assert_eq!(
            of(&gcp),
            Ok(Some(Service::Gcp(Gcp {
                token_audience: "https://iam/p".to_owned(),
                audience: "//iam/p".to_owned(),
                service_account: Some("a@b".to_owned()),
                token_endpoint: Some("https://t".to_owned()),
                impersonation_endpoint: Some("https://i".to_owned()),
            })))
        );
        let azure = serde_json::json!({"audience": "mine", "azure": {"tenantId": "t", "clientId": "c", "authority": "https://a"}});
        assert_eq!(
            of(&azure),
            Ok(Some(Service::Azure(Azure {
                token_audience: "mine".to_owned(),
                tenant_id: "t".to_owned(),
                client_id: "c".to_owned(),
                authority: Some("https://a".to_owned()),
            })))
        );
        let node = parsed(serde_json::json!({"mode": "Node", "node": {"endpoint": "http://m"}}));
        assert_eq!(
            service(&node),
            Ok(Some(Service::Instance(Instance {
                endpoint: Some("http://m".to_owned()),
            })))
        );
        assert_eq!(service(&SourceAuth::default()), Ok(None));
    }

    #[test]
    fn keys_are_short_lived_unless_set_otherwise() {
        let of_seconds = |seconds: Option<i64>| {
            of(
                &serde_json::json!({"aws": {"roleArn": "arn:aws:iam::1:role/r", "durationSeconds": seconds}}),
            )
        };
        let Ok(Some(Service::Aws(role))) = of_seconds(None) else {
            panic!("no role");
        };
        assert_eq!(role.duration, Duration::from_mins(15));
        for wrong in [-1, 0, 899, 43_201] {
            assert_eq!(
                of_seconds(Some(wrong)),
                Err("aws.durationSeconds must be between 900 and 43200".to_owned())
            );
        }
    }

    #[test]
    fn what_the_api_server_should_have_refused_is_refused_in_a_sentence() {
        let two = serde_json::json!({"aws": {"roleArn": "a"}, "azure": {"tenantId": "t", "clientId": "c"}});
        for identity in [serde_json::json!({}), two] {
            assert_eq!(
                of(&identity),
                Err("auth.workloadIdentity must have exactly one of aws, gcp and azure".to_owned())
            );
        }
        let none = service(&parsed(serde_json::json!({"mode": "WorkloadIdentity"})));
        assert!(
            none.unwrap_err()
                .starts_with("auth.workloadIdentity is missing")
        );
    }

    #[test]
    fn each_cloud_has_its_audience_unless_another_is_named() {
        for (identity, expected) in [
            (
                serde_json::json!({"aws": {"roleArn": "a"}}),
                "sts.amazonaws.com",
            ),
            (
                serde_json::json!({"gcp": {"audience": "//iam.googleapis.com/projects/1"}}),
                "https://iam.googleapis.com/projects/1",
            ),
            (
                serde_json::json!({"azure": {"tenantId": "t", "clientId": "c"}}),
                "api://AzureADTokenExchange",
            ),
            (
                serde_json::json!({"audience": "mine", "aws": {"roleArn": "a"}}),
                "mine",
            ),
        ] {
            let identity: WorkloadIdentity = serde_json::from_value(identity).unwrap();
            assert_eq!(audience(&identity), expected);
        }
    }
}
