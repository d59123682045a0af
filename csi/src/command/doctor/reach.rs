//! Whether a source answers: one listing that ends after its first page.

use tonnage_cache::error::{Kind, chain};
use tonnage_cache::gate::OpenGate;
use tonnage_cache::source::config::{self, SourceConfig};
use tonnage_cache::source::{Error, Limits};

use super::Check;

pub(super) async fn examine(source: &SourceConfig) -> Check {
    let name = format!("source {}", source.name);
    match ask(source).await {
        // The limits below end every longer listing: an answer came, and that is the question.
        Ok(()) | Err(Error::Limit(_)) => {
            Check::ok(name, format!("{} answers", source.url.escape_default()))
        }
        Err(error) => Check::fail(name, chain(&error), advice(error.kind())),
    }
}

async fn ask(source: &SourceConfig) -> Result<(), Error> {
    let built = config::build(source, OpenGate::shared())?;
    let limits = Limits {
        objects: 1,
        pages: 1,
        ..source.limits.limits()
    };
    built.list("", &limits).await?;
    Ok(())
}

const fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid | Kind::Conflict => "correct the source's configuration",
        Kind::NotFound => "check the bucket's name, or upload something",
        Kind::Denied => {
            "give these credentials the right to list, or allow the address (allow_loopback, allowed_cidrs)"
        }
        Kind::Unauthenticated => "replace the source's keys",
        Kind::Transient | Kind::Busy => {
            "check the endpoint, the name service, the firewall and the certificate"
        }
        Kind::NoSpace | Kind::Exhausted | Kind::Corrupt | Kind::Internal => {
            "look at the source's own state"
        }
    }
}
