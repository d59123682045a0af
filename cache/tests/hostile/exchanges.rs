//! Services that give keys: whatever they answer ends in keys or in one sentence, and in none of them stands what is secret.
//! Secrets here are made of tildes, which are in no code and in no sentence of ours.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::sample::select;
use tonnage_cache::clock::{Clock, ManualClock};
use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::config::{Auth, SourceConfig, build};
use tonnage_cache::source::exchange::{
    Aws, Azure, Exchange, Gcp, Instance, Service, Subject, SubjectToken,
};
use tonnage_cache::source::{Error, Limits, Source};

use super::harm::{harmed, harms};
use super::play::{Play, page};
use super::responder::{Answer, Head, raw};
use super::words::{hold, is_sentence};

/// 2026-01-01T00:00:00Z.
const NOW: Duration = Duration::from_hours(490_896);

const STS: &str = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
    <SessionToken>~~~~</SessionToken><SecretAccessKey>~~~~</SecretAccessKey><Expiration>2026-01-01T00:15:00Z</Expiration>\
    <AccessKeyId>AKIA~</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
const STS_ERROR: &str = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>~~~~ said ~</Message></Error></ErrorResponse>";
const OAUTH: &str = r#"{"access_token":"~~~~","token_type":"Bearer","expires_in":3600}"#;
const OAUTH_ERROR: &str = r#"{"error":"invalid_grant","error_description":"~~~~ is no token","error_codes":[700213],"x":{"y":"~"}}"#;
const IMPERSONATED: &str = r#"{"accessToken":"~~~~","expireTime":"2026-01-01T01:00:00Z"}"#;
const API_ERROR: &str = r#"{"error":{"code":403,"message":"~~~~","status":"PERMISSION_DENIED"}}"#;
const EC2: &str = r#"{"Code":"Success","AccessKeyId":"ASIA~","SecretAccessKey":"~~~~","Token":"~~~~","Expiration":"2026-01-01T06:00:00Z"}"#;
const AZURE_IMDS: &str = r#"{"access_token":"~~~~","expires_in":"3600","token_type":"Bearer"}"#;

/// Who is asked, of which store, and what it would answer.
const SERVICES: &[(Asked, &str, &[&str])] = &[
    (Asked::Aws, "s3://bucket", &[STS, STS_ERROR]),
    (Asked::Gcp, "gs://bucket", &[OAUTH, OAUTH_ERROR]),
    (
        Asked::Impersonated,
        "gs://bucket",
        &[IMPERSONATED, API_ERROR],
    ),
    (
        Asked::Azure,
        "az://account/container",
        &[OAUTH, OAUTH_ERROR],
    ),
    (Asked::Instance, "s3://bucket", &[EC2]),
    (Asked::Instance, "gs://bucket", &[OAUTH]),
    (Asked::Instance, "az://account/container", &[AZURE_IMDS]),
];
const STATUSES: &[&str] = &[
    "200 OK",
    "200 OK",
    "200 OK",
    "302 Found",
    "400 Bad Request",
    "401 Unauthorized",
    "403 Forbidden",
    "404 Not Found",
    "410 Gone",
    "429 Too Many Requests",
    "500 Oops",
];

#[derive(Debug, Clone, Copy)]
enum Asked {
    Aws,
    Gcp,
    Impersonated,
    Azure,
    Instance,
}

impl Asked {
    fn service(self, at: &str) -> Service {
        let at = at.to_owned();
        let pool = |service_account| {
            Service::Gcp(Gcp {
                token_audience: String::new(),
                audience: "//iam.googleapis.com/pool".to_owned(),
                service_account,
                token_endpoint: Some(at.clone()),
                impersonation_endpoint: Some(at.clone()),
            })
        };
        match self {
            Self::Aws => Service::Aws(Aws {
                token_audience: String::new(),
                role_arn: "arn:aws:iam::1:role/r".to_owned(),
                session_name: "team.trainer".to_owned(),
                endpoint: Some(at),
                duration: Duration::from_mins(15),
            }),
            Self::Gcp => pool(None),
            Self::Impersonated => pool(Some("a@p.iam.gserviceaccount.com".to_owned())),
            Self::Azure => Service::Azure(Azure {
                token_audience: String::new(),
                tenant_id: "tenant".to_owned(),
                client_id: "client".to_owned(),
                authority: Some(at),
            }),
            Self::Instance => Service::Instance(Instance { endpoint: Some(at) }),
        }
    }
}

/// A store that lists something to everyone, and the questions that come before that for keys.
fn store(head: &Head) -> Option<Answer> {
    let target = head.target.as_str();
    if target.contains("list-type=2") {
        let listing = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>";
        return Some(page("200 OK", listing.as_bytes()));
    }
    if target.contains("comp=list") {
        let listing = "<EnumerationResults><Blobs><Blob><Name>a</Name><Properties><Content-Length>1</Content-Length></Properties></Blob></Blobs><NextMarker/></EnumerationResults>";
        return Some(page("200 OK", listing.as_bytes()));
    }
    if target == "/latest/api/token" {
        return Some(page("200 OK", b"~session~"));
    }
    if target == "/latest/meta-data/iam/security-credentials/" {
        return Some(page("200 OK", b"role"));
    }
    let is_exchange = target == "/v1/token" && head.body.contains("cloud-platform");
    is_exchange.then(|| page("200 OK", OAUTH.as_bytes()))
}

/// The source as a workload sees it that has a token.
fn source(play: &Play, asked: Asked, url: &str) -> Arc<dyn Source> {
    let now = SystemTime::UNIX_EPOCH + NOW;
    let at = format!("http://{}", play.server.address);
    let subject = Arc::new(Subject::new());
    let expires = now + Duration::from_hours(1);
    subject.offer(SubjectToken::new("~~~~.~~~~", Some(expires)));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now));
    let config = SourceConfig {
        name: "models".to_owned(),
        url: url.to_owned(),
        auth: Auth::Exchange,
        exchange: Some(Exchange {
            service: asked.service(&at),
            subject: Some(subject),
            clock,
        }),
        ..SourceConfig::default()
    };
    build(&config.with_endpoint(&at), OpenGate::shared()).unwrap()
}

fn check(source: &dyn Source, error: &Error) -> Result<(), TestCaseError> {
    let sentence = error.to_string();
    prop_assert!(is_sentence(&sentence), "{}", sentence);
    let shown = format!("{error} {error:?} {source:?}");
    prop_assert!(!shown.contains('~'), "{}", shown);
    Ok(())
}

#[test]
fn whatever_a_service_answers_ends_in_keys_or_in_a_sentence_without_secrets() {
    let play = Play::with(store);
    let which = (0..SERVICES.len(), any::<proptest::sample::Index>());
    let flavor = prop_oneof![3 => Just("Google"), 1 => Just("Other")];
    let said = (which, select(STATUSES), harms(), flavor);
    hold(512, &said, |((service, which), status, harms, flavor)| {
        let (asked, url, answers) = SERVICES[service];
        let body = harmed(answers[which.index(answers.len())].as_bytes(), &harms);
        let length = body.len().to_string();
        let fields = [
            ("Content-Length", length.as_str()),
            ("Metadata-Flavor", flavor),
            ("Location", "http://~.example/"),
        ];
        play.say(raw(status, &fields, &body));
        let source = source(&play, asked, url);
        match play.run(source.list("", &Limits::default())) {
            Ok(listing) => {
                prop_assert_eq!(listing.entries.len(), 1);
                prop_assert!(status.starts_with("200"), "{}", status);
                Ok(())
            }
            Err(error) => check(&*source, &error),
        }
    });
}

#[test]
fn deep_and_large_answers_give_no_keys() {
    let play = Play::with(store);
    let deep = 100_000;
    for (asked, url, _) in SERVICES {
        for body in [
            "[".repeat(deep),
            "{\"x\":".repeat(deep),
            "<x>".repeat(deep),
            "<Credentials>".repeat(deep / 10),
            " ".repeat(300 << 10),
        ] {
            play.say_body("200 OK", body.as_bytes());
            let source = source(&play, *asked, url);
            let error = play.run(source.list("", &Limits::default())).unwrap_err();
            assert!(is_sentence(&error.to_string()), "{error}");
        }
    }
}
