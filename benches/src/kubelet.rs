//! Many pods of one model, published and unpublished over gRPC as kubelet does, one call timed at a time or all at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonnage_cache::clock::{Clock as _, SystemClock};
use tonnage_e2e::kubelet::{Pod, publish, unpublish};

/// Kubelet's own deadline.
const DEADLINE: Duration = Duration::from_mins(2);

/// Which pods.
#[derive(Debug, clap::Args)]
pub struct Burst {
    /// The node service's socket.
    #[arg(long)]
    socket: PathBuf,
    /// Kubelet's directory, as the driver sees it.
    #[arg(long)]
    kubelet_dir: PathBuf,
    /// Name of the source.
    #[arg(long)]
    source: String,
    /// Path in it.
    #[arg(long, default_value = "")]
    path: String,
    /// How many pods.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// How many calls at once.
    #[arg(long, default_value_t = 1)]
    parallel: usize,
}

/// What the calls took, in microseconds, in order of their ends; connecting and kubelet's two capability calls are part of
/// a publish.
#[derive(Debug, Default, serde::Serialize)]
pub struct Times {
    publish_us: Vec<u64>,
    unpublish_us: Vec<u64>,
}

/// Publishes all pods, then unpublishes all.
pub async fn burst(burst: Burst) -> Result<Times, Box<dyn std::error::Error>> {
    let burst = Arc::new(burst);
    let attributes = [
        ("source", burst.source.as_str()),
        ("path", burst.path.as_str()),
    ];
    let given = attributes
        .into_iter()
        .filter(|(_, value)| !value.is_empty());
    let attributes: Vec<(&str, &str)> = given.collect();
    let pods: Vec<Pod> = (0..burst.count)
        .map(|number| {
            Pod::inline(
                &format!("burst-{}-{number}", std::process::id()),
                &attributes,
            )
        })
        .collect();
    for pod in &pods {
        std::fs::create_dir_all(pod.volume_dir(&burst.kubelet_dir))?;
    }
    let publish_us = timed(&burst, &pods, |burst, pod| async move {
        let request = pod.publish_request(&burst.kubelet_dir);
        publish(&burst.socket, request, DEADLINE).await
    })
    .await?;
    let unpublish_us = timed(&burst, &pods, |burst, pod| async move {
        let target = pod.target(&burst.kubelet_dir);
        unpublish(&burst.socket, &pod.volume_id, &target, DEADLINE).await
    })
    .await?;
    Ok(Times {
        publish_us,
        unpublish_us,
    })
}

async fn timed<F>(
    burst: &Arc<Burst>,
    pods: &[Pod],
    call: impl Fn(Arc<Burst>, Pod) -> F,
) -> Result<Vec<u64>, Box<dyn std::error::Error>>
where
    F: Future<Output = Result<(), tonic::Status>> + Send + 'static,
{
    let turns = Arc::new(Semaphore::new(burst.parallel.max(1)));
    let clock = Arc::new(SystemClock::new());
    let mut calls = JoinSet::new();
    for pod in pods {
        let (turns, call) = (Arc::clone(&turns), call(Arc::clone(burst), pod.clone()));
        let clock = Arc::clone(&clock);
        calls.spawn(async move {
            let turn = turns.acquire_owned().await;
            let start = clock.monotonic();
            let result = call.await;
            let took = clock.monotonic().saturating_sub(start);
            drop(turn);
            result.map(|()| u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
        });
    }
    let mut times = Vec::with_capacity(pods.len());
    while let Some(ended) = calls.join_next().await {
        times.push(ended??);
    }
    Ok(times)
}
