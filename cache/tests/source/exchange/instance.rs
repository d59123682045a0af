//! The metadata services of instances, and the one address that leads to them.

use std::net::IpAddr;
use std::sync::Mutex;

use futures::future::BoxFuture;
use tonnage_cache::gate::{Connection, Demand, Gate, Permit, Redirection, Refusal};
use tonnage_cache::source::config::build;
use tonnage_cache::source::exchange::{Aws, Instance};

use super::*;

const BLOBS: &str = "<EnumerationResults><Blobs><Blob><Name>a</Name><Properties><Etag>0x1</Etag>\
                     <Content-Length>10</Content-Length></Properties></Blob></Blobs><NextMarker/></EnumerationResults>";

fn instance(server: &Responder) -> Service {
    Service::Instance(Instance {
        endpoint: Some(base(server)),
    })
}

#[tokio::test]
async fn ec2_is_asked_for_a_session_first_then_for_the_role_and_its_keys() {
    let keys = r#"{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"ASIA1",
                   "SecretAccessKey":"canary-secret","Token":"canary-session","Expiration":"2026-01-01T06:00:00Z"}"#;
    let server = Responder::start(
        move |head| match (head.method.as_str(), head.target.as_str()) {
            ("PUT", "/latest/api/token") => ok("canary-imds"),
            ("GET", "/latest/meta-data/iam/security-credentials/") => ok("node-role"),
            ("GET", "/latest/meta-data/iam/security-credentials/node-role") => ok(keys),
            _ => ok(LISTING),
        },
    )
    .await;
    let world = World::new(&server, "s3://bucket", instance(&server));
    world.list().await.unwrap();
    let (store, service) = parted(&server);
    let [session, role, keys] = service.as_slice() else {
        panic!("{service:?}");
    };
    assert_eq!(session.fields["x-aws-ec2-metadata-token-ttl-seconds"], "60");
    for question in [role, keys] {
        assert_eq!(question.fields["x-aws-ec2-metadata-token"], "canary-imds");
    }
    assert!(store[0].fields["authorization"].contains("Credential=ASIA1/"));
    assert_eq!(store[0].fields["x-amz-security-token"], "canary-session");
    // Four fifths of six hours are 17,280 seconds.
    world.advance(15_551);
    world.list().await.unwrap();
    assert_eq!(parted(&server).1.len(), 3);
    world.advance(3457);
    list_until(&world, || parted(&server).1.len() == 6).await;
}

#[tokio::test]
async fn google_is_believed_by_its_flavor_alone() {
    for flavor in ["Google", "Other"] {
        let server = Responder::start(move |head| {
            if head.target.contains("list-type=2") {
                return ok(LISTING);
            }
            let body =
                r#"{"access_token":"canary-access","expires_in":3599,"token_type":"Bearer"}"#;
            let length = body.len().to_string();
            raw(
                "200 OK",
                &[("Content-Length", &length), ("Metadata-Flavor", flavor)],
                body.as_bytes(),
            )
        })
        .await;
        let world = World::new(&server, "gs://bucket", instance(&server));
        if flavor == "Google" {
            world.list().await.unwrap();
            let (store, service) = parted(&server);
            assert_eq!(
                service[0].target,
                "/computeMetadata/v1/instance/service-accounts/default/token"
            );
            assert_eq!(service[0].fields["metadata-flavor"], "Google");
            assert_eq!(store[0].fields["authorization"], "Bearer canary-access");
        } else {
            let (kind, sentence) = world.refused().await;
            assert_eq!(kind, Kind::Transient);
            assert!(
                sentence.ends_with("it is not Google's metadata service"),
                "{sentence}"
            );
        }
    }
}

#[tokio::test]
async fn azure_is_asked_for_a_token_of_storage() {
    let server = Responder::start(|head| {
        if head.target.contains("comp=list") {
            ok(BLOBS)
        } else {
            ok(r#"{"access_token":"canary-access","expires_in":"86399","token_type":"Bearer"}"#)
        }
    })
    .await;
    let world = World::new(&server, "az://account/container", instance(&server));
    world.list().await.unwrap();
    let (store, service) = parted(&server);
    assert_eq!(
        service[0].target,
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F"
    );
    assert_eq!(service[0].fields["metadata"], "true");
    assert_eq!(store[0].fields["authorization"], "Bearer canary-access");
}

#[tokio::test]
async fn an_instance_without_an_identity_is_told_what_it_lacks() {
    for (url, words) in [
        (
            "s3://bucket",
            "the instance has no role: attach an instance profile to it",
        ),
        (
            "gs://bucket",
            "the instance has no service account: attach one to it",
        ),
        (
            "az://account/container",
            "the instance has no identity: assign a managed identity to it",
        ),
    ] {
        let server = Responder::start(|head| match head.method.as_str() {
            "PUT" => ok("canary-imds"),
            // Azure's says 400.
            _ if head.target.starts_with("/metadata/") => answer("400 Bad Request", "canary"),
            _ => answer("404 Not Found", "canary"),
        })
        .await;
        let world = World::new(&server, url, instance(&server));
        let sentence = format!("no temporary keys from {}: {words}", host(&server));
        assert_eq!(world.refused().await, (Kind::Denied, sentence));
    }
}

#[tokio::test]
async fn azure_s_service_is_asked_again_after_its_update() {
    for (status, number) in [("404 Not Found", 404), ("410 Gone", 410)] {
        let server = Responder::start(move |_| answer(status, "canary")).await;
        let world = World::new(&server, "az://account/container", instance(&server));
        let sentence = format!(
            "no temporary keys from {}: it is being updated (status {number}); this is tried again by itself",
            host(&server)
        );
        assert_eq!(world.refused().await, (Kind::Transient, sentence));
    }
}

/// Notes where connections lead, and lets none be made.
#[derive(Debug, Default)]
struct Shut(Mutex<Vec<(String, IpAddr, u16)>>);

impl Gate for Shut {
    fn connect(&self, connection: &Connection) -> Result<(), Refusal> {
        let Connection {
            host,
            address,
            port,
            ..
        } = connection.clone();
        self.0.lock().unwrap().push((host, address, port));
        Err(Refusal::Denied("shut".to_owned()))
    }

    fn redirect(&self, _: &Redirection<'_>) -> Result<(), Refusal> {
        Err(Refusal::Denied("shut".to_owned()))
    }

    fn admit<'a>(&'a self, _demand: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        Box::pin(std::future::ready(Err(Refusal::Denied("shut".to_owned()))))
    }
}

/// What a listing of a source with this service, and perhaps with another endpoint, fails with, and where it led.
async fn tried(
    url: &str,
    service: Service,
    endpoint: Option<&str>,
) -> (String, Vec<(String, IpAddr, u16)>) {
    let gate = Arc::new(Shut::default());
    let config = SourceConfig {
        url: url.to_owned(),
        endpoint: endpoint.map(str::to_owned),
        allow_http: true,
        allowed_cidrs: vec!["0.0.0.0/0".parse().unwrap()],
        auth: Auth::Exchange,
        exchange: Some(Exchange {
            service,
            subject: Some(Arc::new(Subject::new())),
            clock: Arc::new(ManualClock::at(at(NOW))),
        }),
        ..SourceConfig::default()
    };
    if let Some(exchange) = &config.exchange {
        let token = SubjectToken::new("canary-token", None);
        exchange.subject.as_ref().unwrap().offer(token);
    }
    let source = build(&config, Arc::clone(&gate) as Arc<dyn Gate>).unwrap();
    let error = source.list("", &Limits::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    let led = gate.0.lock().unwrap().clone();
    (error.to_string(), led)
}

#[tokio::test]
async fn the_metadata_address_is_open_to_the_exchange_of_instances_and_to_nothing_else() {
    let metadata: IpAddr = "169.254.169.254".parse().unwrap();
    let own = Service::Instance(Instance::default());
    for (url, host) in [
        ("s3://bucket", "169.254.169.254"),
        ("gs://bucket", "metadata.google.internal"),
        ("az://account/container", "169.254.169.254"),
    ] {
        // The gate is asked here as everywhere.
        let (sentence, led) = tried(url, own.clone(), None).await;
        assert_eq!(sentence, format!("no temporary keys from {host}: shut"));
        assert_eq!(led, [(host.to_owned(), metadata, 80)]);
    }
    let role = Service::Aws(Aws {
        token_audience: "sts.amazonaws.com".to_owned(),
        role_arn: "arn:aws:iam::1:role/r".to_owned(),
        session_name: "s".to_owned(),
        endpoint: Some("http://169.254.169.254".to_owned()),
        duration: Duration::from_mins(15),
    });
    let named = Service::Instance(Instance {
        endpoint: Some("http://169.254.169.254".to_owned()),
    });
    for service in [role, named] {
        let (sentence, led) = tried("s3://bucket", service, None).await;
        assert!(sentence.contains("a link-local address"), "{sentence}");
        assert!(led.is_empty(), "{led:?}");
    }
}
