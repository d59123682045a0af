//! Google's token exchange, and the impersonation of a service account.

use tonnage_cache::source::exchange::Gcp;

use super::*;

const POOL: &str =
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster";
const FEDERATED: &str = r#"{"access_token":"canary-federated","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}"#;
const IMPERSONATED: &str =
    r#"{"accessToken":"canary-impersonated","expireTime":"2026-01-01T01:00:00Z"}"#;

fn pool(server: &Responder, service_account: Option<&str>) -> Service {
    Service::Gcp(Gcp {
        token_audience: format!("https:{POOL}"),
        audience: POOL.to_owned(),
        service_account: service_account.map(str::to_owned),
        token_endpoint: Some(base(server)),
        impersonation_endpoint: Some(base(server)),
    })
}

/// What was asked at the token service, field by field, in order.
fn fields(body: &str) -> Vec<(String, String)> {
    let plain = |text: &str| {
        let text = text.replace('+', " ");
        let bytes = percent_encoding::percent_decode_str(&text);
        bytes.decode_utf8().unwrap().into_owned()
    };
    body.split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (plain(name), plain(value)))
        .collect()
}

fn expected(scope: &str) -> Vec<(String, String)> {
    [
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("audience", POOL),
        ("scope", scope),
        (
            "requested_token_type",
            "urn:ietf:params:oauth:token-type:access_token",
        ),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("subject_token", "canary-token"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

#[tokio::test]
async fn a_token_is_exchanged_with_every_documented_field_and_borne_to_the_store() {
    let server = Responder::start(|head| match head.method.as_str() {
        "POST" => ok(FEDERATED),
        _ => ok(LISTING),
    })
    .await;
    let world = World::new(&server, "gs://bucket", pool(&server, None));
    world.list().await.unwrap();
    let (store, service) = parted(&server);
    let asked = form(&service, "/v1/token");
    assert!(!asked.fields.contains_key("authorization"));
    assert_eq!(
        fields(&asked.body),
        expected("https://www.googleapis.com/auth/devstorage.read_only")
    );
    assert_eq!(store[0].fields["authorization"], "Bearer canary-federated");
}

#[tokio::test]
async fn a_token_is_not_believed_to_be_valid_for_longer_than_an_hour() {
    let server = Responder::start(|head| match head.method.as_str() {
        "POST" => ok(&FEDERATED.replace("3600", "31536000")),
        _ => ok(LISTING),
    })
    .await;
    let world = World::new(&server, "gs://bucket", pool(&server, None));
    world.list().await.unwrap();
    // Four fifths of an hour, and a tenth of that.
    world.advance(3168);
    list_until(&world, || parted(&server).1.len() == 2).await;
}

#[tokio::test]
async fn a_service_account_is_impersonated_with_the_right_to_read_alone() {
    let server = Responder::start(|head| match head.target.as_str() {
        "/v1/token" => ok(FEDERATED),
        target if target.starts_with("/v1/projects/") => ok(IMPERSONATED),
        _ => ok(LISTING),
    })
    .await;
    let account = "reader@project.iam.gserviceaccount.com";
    let world = World::new(&server, "gs://bucket", pool(&server, Some(account)));
    world.list().await.unwrap();
    let (store, service) = parted(&server);
    let [exchange, impersonation] = service.as_slice() else {
        panic!("{service:?}");
    };
    assert_eq!(
        fields(&exchange.body),
        expected("https://www.googleapis.com/auth/cloud-platform")
    );
    assert_eq!(
        (impersonation.method.as_str(), impersonation.target.as_str()),
        (
            "POST",
            "/v1/projects/-/serviceAccounts/reader@project.iam.gserviceaccount.com:generateAccessToken"
        )
    );
    assert_eq!(impersonation.fields["content-type"], "application/json");
    assert_eq!(
        impersonation.fields["authorization"],
        "Bearer canary-federated"
    );
    let body: serde_json::Value = serde_json::from_str(&impersonation.body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({
            "scope": ["https://www.googleapis.com/auth/devstorage.read_only"],
            "lifetime": "3600s",
        })
    );
    assert_eq!(
        store[0].fields["authorization"],
        "Bearer canary-impersonated"
    );
}

#[tokio::test]
async fn refusals_of_both_services_say_what_to_do() {
    let pool_said = format!("it refuses pool \"{POOL}\"");
    for (status, body, kind, words) in [
        (
            "400 Bad Request",
            r#"{"error":"invalid_grant","error_description":"canary-token"}"#,
            Kind::Unauthenticated,
            format!(
                "{pool_said} (invalid_grant): its provider must have the cluster's issuer, allow the token's audience, and its condition must hold for this service account"
            ),
        ),
        (
            "400 Bad Request",
            r#"{"error":"invalid_target","error_description":"canary"}"#,
            Kind::Invalid,
            format!(
                "{pool_said} (invalid_target): correct gcp.audience, the full name of the pool's provider"
            ),
        ),
        (
            "429 Too Many Requests",
            r#"{"error":{"code":429,"message":"canary"}}"#,
            Kind::Transient,
            "it asks to slow down (status 429)".to_owned(),
        ),
        (
            "200 OK",
            r#"{"access_token":"canary","token_type":"mac","expires_in":3600}"#,
            Kind::Transient,
            "its answer is wrong: no access token is in it".to_owned(),
        ),
    ] {
        let server = Responder::start(move |_| answer(status, body)).await;
        let world = World::new(&server, "gs://bucket", pool(&server, None));
        let sentence = format!("no temporary keys from {}: {words}", host(&server));
        assert_eq!(world.refused().await, (kind, sentence), "{body}");
    }
    let server = Responder::start(|head| match head.target.as_str() {
        "/v1/token" => ok(FEDERATED),
        _ => answer(
            "403 Forbidden",
            r#"{"error":{"code":403,"message":"canary","status":"PERMISSION_DENIED"}}"#,
        ),
    })
    .await;
    let world = World::new(&server, "gs://bucket", pool(&server, Some("a@b.c")));
    let (kind, sentence) = world.refused().await;
    assert_eq!(kind, Kind::Denied);
    assert!(
        sentence.ends_with(
            r#"it refuses service account "a@b.c" (PERMISSION_DENIED): give the pool's principal the role roles/iam.workloadIdentityUser on it"#
        ),
        "{sentence}"
    );
}
