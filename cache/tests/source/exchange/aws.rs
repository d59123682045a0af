//! `AssumeRoleWithWebIdentity`.

use tonnage_cache::source::exchange::Aws;

use super::*;

pub(super) fn role(server: &Responder) -> Service {
    role_at(base(server))
}

/// A role that the STS at this URL gives keys for.
pub(super) fn role_at(sts: String) -> Service {
    Service::Aws(Aws {
        token_audience: "sts.amazonaws.com".to_owned(),
        role_arn: "arn:aws:iam::123456789012:role/models".to_owned(),
        session_name: "team-a.trainer".to_owned(),
        endpoint: Some(sts),
        duration: Duration::from_mins(15),
    })
}

/// STS's answer as its documentation shows it, with keys of a number.
pub(super) fn given(number: u64, expiration: &str) -> String {
    format!(
        r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <SubjectFromWebIdentityToken>system:serviceaccount:team-a:trainer</SubjectFromWebIdentityToken>
    <Audience>sts.amazonaws.com</Audience>
    <AssumedRoleUser>
      <Arn>arn:aws:sts::123456789012:assumed-role/models/team-a.trainer</Arn>
      <AssumedRoleId>AROACLKWSDQRAOEXAMPLE:team-a.trainer</AssumedRoleId>
    </AssumedRoleUser>
    <Credentials>
      <SessionToken>canary-session-{number}</SessionToken>
      <SecretAccessKey>canary-secret-{number}</SecretAccessKey>
      <Expiration>{expiration}</Expiration>
      <AccessKeyId>AKIA{number}</AccessKeyId>
    </Credentials>
    <Provider>arn:aws:iam::123456789012:oidc-provider/issuer</Provider>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata><RequestId>ad4156e9</RequestId></ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>"#
    )
}

#[tokio::test]
async fn a_role_is_asked_for_with_every_documented_field_and_its_keys_sign() {
    let server = Responder::start(|head| match head.method.as_str() {
        "POST" => ok(&given(1, "2026-01-01T00:15:00Z")),
        _ => ok(LISTING),
    })
    .await;
    let world = World::new(&server, "s3://bucket", role(&server));
    assert_eq!(world.list().await.unwrap().entries[0].key, "a");
    let (store, service) = parted(&server);
    let asked = form(&service, "/");
    assert!(!asked.fields.contains_key("authorization"));
    assert_eq!(
        asked.body,
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fmodels\
         &RoleSessionName=team-a.trainer&DurationSeconds=900&WebIdentityToken=canary-token"
    );
    let fields = &store[0].fields;
    assert!(fields["authorization"].contains("Credential=AKIA1/"));
    assert_eq!(fields["x-amz-security-token"], "canary-session-1");
    let shown = format!("{:?}", world.source);
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn every_refusal_says_what_to_do_and_shows_nothing_but_its_code() {
    let error = |code: &str| {
        format!(
            "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>canary-token</Message></Error></ErrorResponse>"
        )
    };
    let role_said = r#"it refuses role "arn:aws:iam::123456789012:role/models""#;
    for (status, body, kind, words) in [
        (
            "403 Forbidden",
            error("AccessDenied"),
            Kind::Denied,
            format!(
                "{role_said} (AccessDenied): its trust policy must allow sts:AssumeRoleWithWebIdentity to this service account"
            ),
        ),
        (
            "400 Bad Request",
            error("InvalidIdentityToken"),
            Kind::Unauthenticated,
            format!(
                "{role_said} (InvalidIdentityToken): register the cluster's issuer as an OIDC provider of the account, for the token's audience"
            ),
        ),
        (
            "400 Bad Request",
            error("ExpiredTokenException"),
            Kind::Unauthenticated,
            format!(
                "{role_said} (ExpiredTokenException): the pod's token has expired; kubelet brings a new one when it mounts a volume"
            ),
        ),
        (
            "400 Bad Request",
            error("IDPCommunicationError"),
            Kind::Transient,
            format!(
                "{role_said} (IDPCommunicationError): it cannot reach the cluster's issuer; this is tried again by itself"
            ),
        ),
        (
            "400 Bad Request",
            error("ValidationError"),
            Kind::Invalid,
            format!(
                "{role_said} (ValidationError): correct roleArn and durationSeconds, which the role limits"
            ),
        ),
        (
            "403 Forbidden",
            error("canary token"),
            Kind::Denied,
            format!("{role_said} (status 403)"),
        ),
        (
            "500 Internal Server Error",
            "canary".to_owned(),
            Kind::Transient,
            "it fails (status 500)".to_owned(),
        ),
        (
            "302 Found",
            "canary".to_owned(),
            Kind::Invalid,
            "it redirects (status 302), which is never followed: correct its URL".to_owned(),
        ),
        (
            "200 OK",
            "<html>canary</html>".to_owned(),
            Kind::Transient,
            "its answer is wrong: no credentials are in it".to_owned(),
        ),
        (
            "200 OK",
            given(1, "2026-01-01T00:00:00Z"),
            Kind::Transient,
            "its answer is wrong: the keys have expired already; set this node's clock".to_owned(),
        ),
        (
            "200 OK",
            given(1, "2026-01-01T00:15:00Z").replace("canary-secret", "canary secret"),
            Kind::Transient,
            "its answer holds a character that keys cannot have".to_owned(),
        ),
    ] {
        let server = Responder::start(move |_| answer(status, &body)).await;
        let world = World::new(&server, "s3://bucket", role(&server));
        let sentence = format!("no temporary keys from {}: {words}", host(&server));
        assert_eq!(world.refused().await, (kind, sentence), "{status}");
        assert!(
            parted(&server).0.is_empty(),
            "the store was asked without keys"
        );
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let server = Responder::start(|_| ok(&"x".repeat(300_000))).await;
    let world = World::new(&server, "s3://bucket", role(&server));
    let (kind, sentence) = world.refused().await;
    assert_eq!(kind, Kind::Transient);
    assert!(
        sentence.ends_with("an answer longer than 262144 bytes"),
        "{sentence}"
    );
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_named() {
    let server = Responder::start(|_| ok(LISTING)).await;
    let world = World::new(&server, "s3://bucket", role(&server));
    let sentence = format!(
        "no temporary keys from {}: connection refused",
        host(&server)
    );
    server.stop().await;
    assert_eq!(world.refused().await, (Kind::Transient, sentence));
}

#[test]
fn a_role_of_one_cloud_does_not_read_another_and_plain_http_is_the_admin_s_choice() {
    let role = |endpoint: Option<&str>| {
        Service::Aws(Aws {
            token_audience: "sts.amazonaws.com".to_owned(),
            role_arn: "arn:aws:iam::1:role/r".to_owned(),
            session_name: "s".to_owned(),
            endpoint: endpoint.map(str::to_owned),
            duration: Duration::from_mins(15),
        })
    };
    let built = |url: &str, service| {
        let config = SourceConfig {
            name: "models".to_owned(),
            url: url.to_owned(),
            auth: Auth::Exchange,
            exchange: Some(Exchange {
                service,
                subject: None,
                clock: Arc::new(ManualClock::at(at(NOW))),
            }),
            ..SourceConfig::default()
        };
        super::super::built(&config)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(built("s3://bucket", role(None)), Ok(()));
    assert_eq!(
        built("gs://bucket", role(None)),
        Err(
            "source models cannot be read with an identity of another cloud than its own"
                .to_owned()
        )
    );
    let plain = built("s3://bucket", role(Some("http://sts.example"))).unwrap_err();
    assert!(plain.contains("is plain http"), "{plain}");
}
