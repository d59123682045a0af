//! Traces of loads over OTLP/gRPC: one span per load with one child per phase, laid end to end, so that the children add
//! up to the wall time. Spans are made from the finished account, which costs the load nothing.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Span, SpanKind, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tonic::Code;

use crate::loads::{Load, Observer};

/// Longest time that the collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The collector's address is wrong.
#[derive(Debug, thiserror::Error)]
#[error("the OTLP endpoint {endpoint} cannot be used: {why}")]
pub struct Error {
    endpoint: String,
    why: String,
}

/// Sends a trace of every load to a collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Traces for the collector at `endpoint` (`http://host:4317`). Connects when the first trace is sent; must be called
    /// within a runtime.
    pub fn to(endpoint: &str, node_id: &str) -> Result<Self, Error> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| Error {
                endpoint: endpoint.to_owned(),
                why: error.to_string(),
            })?;
        let resource = Resource::builder()
            .with_service_name("tonnage")
            .with_attribute(KeyValue::new("host.name", node_id.to_owned()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build();
        Ok(Self::with(provider))
    }

    /// Traces for any exporter.
    pub fn with(provider: SdkTracerProvider) -> Self {
        let tracer = provider.tracer("tonnage");
        Self { provider, tracer }
    }

    /// Sends what is left. Blocking.
    pub fn close(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(TIMEOUT) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }

    fn record(&self, load: &Load) {
        let end = SystemTime::UNIX_EPOCH + Duration::from_millis(load.ended_millis);
        let start = end
            .checked_sub(load.total())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let root = self
            .tracer
            .span_builder("load")
            .with_kind(SpanKind::Internal)
            .with_start_time(start)
            .with_attributes(attributes(load))
            .start(&self.tracer);
        let context = Context::new().with_span(root);
        let mut at = start;
        for (phase, nanos) in &load.report.phases {
            let next = at + Duration::from_nanos(*nanos);
            let mut span = self
                .tracer
                .span_builder(phase.name())
                .with_start_time(at)
                .start_with_context(&self.tracer, &context);
            span.end_with_timestamp(next);
            at = next;
        }
        context.span().end_with_timestamp(end);
    }
}

fn attributes(load: &Load) -> Vec<KeyValue> {
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new("tonnage.volume.id", load.volume.clone()),
        KeyValue::new("tonnage.source", load.source.clone()),
        KeyValue::new("tonnage.path", load.path.clone()),
        KeyValue::new("tonnage.revision", load.revision.to_hex()),
        KeyValue::new("tonnage.digest", load.digest.to_hex()),
        KeyValue::new("tonnage.bytes", number(load.report.bytes)),
        KeyValue::new("tonnage.bytes.source", number(load.report.origins.source)),
        KeyValue::new("tonnage.bytes.cached", number(load.report.origins.cached)),
        KeyValue::new("tonnage.files", number(load.report.files)),
    ];
    if let Some(pod) = &load.pod {
        attributes.push(KeyValue::new("k8s.namespace.name", pod.namespace.clone()));
        attributes.push(KeyValue::new("k8s.pod.name", pod.name.clone()));
        attributes.push(KeyValue::new("k8s.pod.uid", pod.uid.clone()));
    }
    attributes
}

impl Observer for Traces {
    fn load_ended(&self, load: &Load) {
        self.record(load);
    }

    fn call_ended(&self, _rpc: &'static str, _code: Code, _time: Duration) {}

    fn published(&self, _targets: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter as Exporter};
    use tonnage_cache::digest::Digest;
    use tonnage_cache::report::{Phase, Report};

    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl Exporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[test]
    fn the_phases_of_a_trace_lie_end_to_end_and_add_up_to_the_load() {
        let kept = Kept::default();
        let traces = Traces::with(
            SdkTracerProvider::builder()
                .with_simple_exporter(kept.clone())
                .build(),
        );
        let mut report = Report::default();
        for (phase, millis) in [
            (Phase::Authorize, 1),
            (Phase::Transfer, 1000),
            (Phase::Mount, 2),
        ] {
            report.add_phase(phase, Duration::from_millis(millis));
        }
        traces.load_ended(&Load {
            ended_millis: 5_000,
            volume: "v".to_owned(),
            pod: None,
            source: "s".to_owned(),
            path: "p".to_owned(),
            revision: Digest::of(b"r"),
            digest: Digest::of(b"m"),
            report,
        });
        traces.close();
        let spans = kept.0.lock().unwrap().clone();
        let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["authorize", "transfer", "mount", "load"]);
        let root = &spans[3];
        assert_eq!(
            root.end_time,
            SystemTime::UNIX_EPOCH + Duration::from_secs(5)
        );
        assert_eq!(spans[0].start_time, root.start_time);
        for pair in spans[..3].windows(2) {
            assert_eq!(pair[0].end_time, pair[1].start_time);
        }
        assert_eq!(spans[2].end_time, root.end_time);
        assert!(
            spans[..3]
                .iter()
                .all(|span| span.parent_span_id == root.span_context.span_id())
        );
    }
}
