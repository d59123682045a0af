//! Prometheus metrics. Labels are bounded: phases, origins, calls and codes, at most 1,000 pairs of source and namespace
//! (`govern/cost.rs`), and, of a controller that leads, budgets (`leading`); never volumes, pods or digests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch::Receiver;
use tonic::Code;
use tonnage_cache::report::Phase;

use crate::govern::cost::Cost;
use crate::govern::gpu::GpuSeconds;
use crate::govern::status::BudgetFigure;
use crate::loads::{Load, Observer};

mod leading;

use leading::Leading;

/// Seconds: from a warm publish to a stage of hours.
const BUCKETS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0,
    14400.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabel {
    origin: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc: &'static str,
    code: String,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    loads: Histogram,
    phases: Family<PhaseLabel, Histogram>,
    bytes: Family<OriginLabel, Counter>,
    published: Gauge,
    calls: Family<CallLabels, Histogram>,
    cost: Arc<Cost>,
    gpu: GpuSeconds,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Fresh metrics, all zero.
    pub fn new() -> Self {
        let histogram = || Histogram::new(BUCKETS);
        let metrics = Self {
            registry: Mutex::default(),
            loads: histogram(),
            phases: Family::new_with_constructor(histogram),
            bytes: Family::default(),
            published: Gauge::default(),
            calls: Family::new_with_constructor(histogram),
            cost: Cost::new(),
            gpu: GpuSeconds::default(),
        };
        {
            let mut registry = metrics
                .registry
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let ours = registry.sub_registry_with_prefix("tonnage");
            ours.register_with_unit(
                "load",
                "Time from a volume's first call to its mount",
                Unit::Seconds,
                metrics.loads.clone(),
            );
            ours.register_with_unit(
                "load_phase",
                "Time of each phase of a load; they add up to the whole",
                Unit::Seconds,
                metrics.phases.clone(),
            );
            ours.register(
                "bytes",
                "Bytes of loads by where they came from",
                metrics.bytes.clone(),
            );
            ours.register(
                "published_volumes",
                "Targets that are published on this node",
                metrics.published.clone(),
            );
            ours.register_with_unit(
                "rpc",
                "Time to answer a call",
                Unit::Seconds,
                metrics.calls.clone(),
            );
            metrics.cost.register(ours);
            metrics.gpu.register(ours);
        }
        for phase in Phase::ALL {
            drop(metrics.phases.get_or_create(&PhaseLabel {
                phase: phase.name(),
            }));
        }
        metrics
    }

    /// What egress costs, for whom settles it. What loads save is told to it from here.
    pub fn cost(&self) -> &Arc<Cost> {
        &self.cost
    }

    /// How long GPUs waited, for whom counts them.
    pub fn gpu_seconds(&self) -> &GpuSeconds {
        &self.gpu
    }

    /// Tells from now on, of a controller, whether it leads and, while it does, what is used of byte budgets. To be called once.
    pub fn follow(&self, leads: Receiver<bool>, figures: Receiver<Vec<BudgetFigure>>) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry
            .sub_registry_with_prefix("tonnage")
            .register_collector(Box::new(Leading { leads, figures }));
    }

    /// The text for Prometheus (`OpenMetrics` 1.0).
    pub fn text(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        if encode(&mut text, &registry).is_err() {
            // A string takes all that is written; only an encoder's own error can come here.
            tracing::error!("the metrics cannot be encoded");
        }
        text
    }
}

impl Observer for Metrics {
    fn load_ended(&self, load: &Load) {
        self.loads.observe(load.total().as_secs_f64());
        for (phase, nanos) in &load.report.phases {
            let label = PhaseLabel {
                phase: phase.name(),
            };
            self.phases
                .get_or_create(&label)
                .observe(Duration::from_nanos(*nanos).as_secs_f64());
        }
        let origins = &load.report.origins;
        for (origin, bytes) in [
            ("source", origins.source),
            ("retry", origins.retry),
            ("hedge", origins.hedge),
            ("resumed", origins.resumed),
            ("unchanged", origins.unchanged),
            ("dedup", origins.dedup),
            ("cached", origins.cached),
        ] {
            self.bytes
                .get_or_create(&OriginLabel { origin })
                .inc_by(bytes);
        }
        self.cost.load_ended(load);
    }

    fn call_ended(&self, rpc: &'static str, code: Code, time: Duration) {
        let labels = CallLabels {
            rpc,
            code: format!("{code:?}"),
        };
        self.calls
            .get_or_create(&labels)
            .observe(time.as_secs_f64());
    }

    fn published(&self, targets: usize) {
        self.published
            .set(i64::try_from(targets).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_cache::digest::Digest;
    use tonnage_cache::report::Report;

    #[test]
    fn a_load_is_counted_by_phase_and_origin() {
        let metrics = Metrics::new();
        let mut report = Report {
            bytes: 7,
            ..Report::default()
        };
        report.origins.source = 7;
        report.origins.cached = 3;
        report.add_phase(Phase::Transfer, Duration::from_millis(1500));
        report.add_phase(Phase::Mount, Duration::from_millis(500));
        metrics.load_ended(&Load {
            ended_millis: 0,
            volume: "v".to_owned(),
            pod: None,
            source: "s".to_owned(),
            path: String::new(),
            revision: Digest::of(b"r"),
            digest: Digest::of(b"m"),
            report,
        });
        metrics.call_ended("NodePublishVolume", Code::Ok, Duration::from_secs(2));
        metrics.published(3);
        let text = metrics.text();
        for line in [
            "tonnage_load_seconds_sum 2.0",
            "tonnage_load_phase_seconds_sum{phase=\"transfer\"} 1.5",
            "tonnage_load_phase_seconds_count{phase=\"view\"} 0",
            "tonnage_bytes_total{origin=\"source\"} 7",
            "tonnage_egress_saved_bytes_total{source=\"s\",namespace=\"\",by=\"cache\"} 3",
            "tonnage_published_volumes 3",
            "tonnage_rpc_seconds_count{rpc=\"NodePublishVolume\",code=\"Ok\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
