//! A token as a client's assertion.

use tonnage_cache::source::exchange::Azure;

use super::*;

const BLOBS: &str = "<EnumerationResults><Blobs><Blob><Name>a</Name><Properties><Etag>0x1</Etag>\
                     <Content-Length>10</Content-Length></Properties></Blob></Blobs><NextMarker/></EnumerationResults>";
const GIVEN: &str = r#"{"token_type":"Bearer","expires_in":86399,"ext_expires_in":86399,"access_token":"canary-access"}"#;

fn identity(server: &Responder) -> Service {
    Service::Azure(Azure {
        token_audience: "api://AzureADTokenExchange".to_owned(),
        tenant_id: "tenant-1".to_owned(),
        client_id: "client-1".to_owned(),
        authority: Some(base(server)),
    })
}

#[tokio::test]
async fn an_assertion_goes_out_with_every_documented_field_and_a_token_to_the_store() {
    let server = Responder::start(|head| match head.method.as_str() {
        "POST" => ok(GIVEN),
        _ => ok(BLOBS),
    })
    .await;
    let world = World::new(&server, "az://account/container", identity(&server));
    assert_eq!(world.list().await.unwrap().entries[0].key, "a");
    let (store, service) = parted(&server);
    let asked = form(&service, "/tenant-1/oauth2/v2.0/token");
    assert_eq!(
        asked.body,
        "grant_type=client_credentials&client_id=client-1&scope=https%3A%2F%2Fstorage.azure.com%2F.default\
         &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion=canary-token"
    );
    let fields = &store[0].fields;
    assert_eq!(fields["authorization"], "Bearer canary-access");
    // Access tokens need a version of the service from 2017-11-09 on.
    assert_eq!(fields["x-ms-version"], "2023-11-03");
    assert!(!store[0].target.contains("canary"));
}

#[tokio::test]
async fn a_token_is_not_believed_to_be_valid_for_longer_than_a_day() {
    let server = Responder::start(|head| match head.method.as_str() {
        "POST" => ok(&GIVEN.replace("86399", "31536000")),
        _ => ok(BLOBS),
    })
    .await;
    let world = World::new(&server, "az://account/container", identity(&server));
    world.offer("canary-newer", 31_536_000);
    world.list().await.unwrap();
    // Four fifths of a day, and a tenth of that.
    world.advance(76_032);
    list_until(&world, || parted(&server).1.len() == 2).await;
}

#[tokio::test]
async fn a_refusal_has_the_number_that_its_documentation_is_searched_for() {
    for (body, kind, words) in [
        (
            r#"{"error":"invalid_client","error_description":"AADSTS700213: canary-token","error_codes":[700213]}"#,
            Kind::Unauthenticated,
            r#"it refuses client "client-1" (invalid_client, AADSTS700213): give it a federated credential with the cluster's issuer, this service account as subject, and the token's audience"#,
        ),
        (
            r#"{"error":"unauthorized_client","error_codes":[700016]}"#,
            Kind::Denied,
            r#"it refuses client "client-1" (unauthorized_client, AADSTS700016): correct azure.clientId and azure.tenantId"#,
        ),
        (
            r#"{"error":"temporarily_unavailable"}"#,
            Kind::Transient,
            r#"it refuses client "client-1" (temporarily_unavailable): this is tried again by itself"#,
        ),
        (
            "canary",
            Kind::Denied,
            r#"it refuses client "client-1" (status 400)"#,
        ),
    ] {
        let server = Responder::start(move |_| answer("400 Bad Request", body)).await;
        let world = World::new(&server, "az://account/container", identity(&server));
        let sentence = format!("no temporary keys from {}: {words}", host(&server));
        assert_eq!(world.refused().await, (kind, sentence), "{body}");
    }
}
