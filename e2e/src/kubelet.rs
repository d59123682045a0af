//! A kubelet for one driver, after what a real one (1.37) was seen to do.
//!
//! Before each publish it makes the target's parent (never the target) and asks for capabilities twice; a publish has
//! two minutes; failures are retried with doubling pauses; one operation per volume at a time; a call in
//! flight is never cancelled by a deletion, and no Unpublish is sent until it returned; Unpublish is sent at
//! deletion iff the last publish succeeded or ended with an uncertain code. A restart drops the calls in flight,
//! forgets all pauses and publishes every running pod again.
//!
//! It looks at targets only from outside, and notes what the driver left behind ([`Kubelet::leftovers`]).

mod calls;
mod pod;
mod timing;

pub use calls::{Provisioner, connect, is_uncertain, probe, publish, stats, unpublish};
pub use pod::Pod;
pub use timing::Timing;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Code, Status};

/// Where kubelet and the driver meet.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node service's socket.
    pub socket: PathBuf,
    /// Kubelet's directory, as the driver sees it.
    pub dir: PathBuf,
    /// Root directory of the driver's mount namespace, seen from here; `/` if it has none of its own.
    pub root: PathBuf,
    /// Its clock.
    pub timing: Timing,
}

/// A call that kubelet made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `publish` or `unpublish`.
    pub rpc: &'static str,
    /// Of which pod.
    pub uid: String,
    /// How it ended.
    pub code: Code,
}

/// What a pod looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Not published yet.
    Pending,
    /// Published.
    Running,
    /// Deleted, and its directory is gone.
    Gone,
}

/// A pod's state and the last event about it.
#[derive(Debug, Clone)]
pub struct PodStatus {
    /// Where it stands.
    pub phase: Phase,
    /// Publish attempts that ended.
    pub attempts: u32,
    /// The last attempt's error.
    pub error: Option<(Code, String)>,
}

/// A pod did not get where it should within the bound.
#[derive(Debug, thiserror::Error)]
#[error("pod {name} is still {phase:?} after {attempts} attempts: {error:?}")]
pub struct Stuck {
    /// The pod's name.
    pub name: String,
    /// Its phase.
    pub phase: Phase,
    /// Publish attempts that ended.
    pub attempts: u32,
    /// The last attempt's error.
    pub error: Option<(Code, String)>,
}

/// A kubelet.
#[derive(Debug)]
pub struct Kubelet {
    shared: Arc<Shared>,
    workers: Mutex<JoinSet<()>>,
    starts: watch::Sender<u32>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    calls: Mutex<Vec<Call>>,
    leftovers: Mutex<Vec<PathBuf>>,
    queues: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A pod that kubelet was given.
#[derive(Debug)]
pub struct PodHandle {
    name: String,
    target: PathBuf,
    seen: PathBuf,
    status: watch::Receiver<PodStatus>,
    wanted: Arc<watch::Sender<bool>>,
}

impl Kubelet {
    /// A kubelet with no pods.
    pub fn new(settings: Settings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                calls: Mutex::default(),
                leftovers: Mutex::default(),
                queues: Mutex::default(),
            }),
            workers: Mutex::default(),
            starts: watch::channel(0).0,
        }
    }

    /// Takes a pod on and begins to publish its volume.
    pub fn add(&self, pod: Pod) -> PodHandle {
        let settings = &self.shared.settings;
        let target = pod.target(&settings.dir);
        let (report, status) = watch::channel(PodStatus {
            phase: Phase::Pending,
            attempts: 0,
            error: None,
        });
        let (wanted, wish) = watch::channel(true);
        let wanted = Arc::new(wanted);
        let handle = PodHandle {
            name: pod.name.clone(),
            seen: crate::namespace::outside(&settings.root, &target),
            target,
            status,
            wanted: Arc::clone(&wanted),
        };
        let worker = Worker {
            shared: Arc::clone(&self.shared),
            pod,
            report,
            wish,
            _wanted: wanted,
            starts: self.starts.subscribe(),
            may_be_left: false,
        };
        lock(&self.workers).spawn(worker.run());
        handle
    }

    /// `kill -9` and start: calls in flight end, pauses are forgotten, every running pod is published again.
    pub fn restart(&self) {
        self.starts
            .send_modify(|starts| *starts = starts.saturating_add(1));
    }

    /// Every call that ended, in order.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.shared.calls).clone()
    }

    /// How many calls of `rpc` were made for the pod.
    pub fn count(&self, rpc: &str, uid: &str) -> usize {
        lock(&self.shared.calls)
            .iter()
            .filter(|call| call.rpc == rpc && call.uid == uid)
            .count()
    }

    /// Targets that were still there after Unpublish, or after an error that promised that nothing is left.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        lock(&self.shared.leftovers).clone()
    }
}

impl PodHandle {
    /// The target as the driver sees it.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The target as this process sees it.
    pub fn seen(&self) -> &Path {
        &self.seen
    }

    /// The pod's state now.
    pub fn status(&self) -> PodStatus {
        self.status.borrow().clone()
    }

    /// Waits until the pod is published.
    pub async fn running(&self, bound: Duration) -> Result<(), Stuck> {
        self.reach(bound, |status| status.phase == Phase::Running)
            .await
            .map(drop)
    }

    /// Waits until an attempt failed with anything but ABORTED and returns what the pod's event says.
    pub async fn event(&self, bound: Duration) -> Result<(Code, String), Stuck> {
        let telling =
            |status: &PodStatus| matches!(&status.error, Some((code, _)) if *code != Code::Aborted);
        let status = self.reach(bound, telling).await?;
        Ok(status.error.unwrap_or((Code::Ok, String::new())))
    }

    /// Waits until `attempts` publish attempts have ended.
    pub async fn attempts(&self, attempts: u32, bound: Duration) -> Result<PodStatus, Stuck> {
        self.reach(bound, |status| status.attempts >= attempts)
            .await
    }

    /// Says that the pod is to go; returns at once.
    pub fn delete(&self) {
        self.wanted.send_replace(false);
    }

    /// Deletes the pod and waits until nothing of it is left.
    pub async fn deleted(&self, bound: Duration) -> Result<(), Stuck> {
        self.delete();
        self.reach(bound, |status| status.phase == Phase::Gone)
            .await
            .map(drop)
    }

    async fn reach(
        &self,
        bound: Duration,
        done: impl FnMut(&PodStatus) -> bool,
    ) -> Result<PodStatus, Stuck> {
        let mut status = self.status.clone();
        let reached = tokio::time::timeout(bound, status.wait_for(done)).await;
        if let Ok(Ok(status)) = reached {
            return Ok(status.clone());
        }
        let now = self.status();
        Err(Stuck {
            name: self.name.clone(),
            phase: now.phase,
            attempts: now.attempts,
            error: now.error,
        })
    }
}

/// The life of one pod's volume.
struct Worker {
    shared: Arc<Shared>,
    pod: Pod,
    report: watch::Sender<PodStatus>,
    wish: watch::Receiver<bool>,
    /// Keeps the wish open when the handle is dropped: the pod then runs on.
    _wanted: Arc<watch::Sender<bool>>,
    starts: watch::Receiver<u32>,
    may_be_left: bool,
}

/// Why an attempt ended.
enum Ended {
    Answered(Result<(), Status>),
    Restarted,
}

impl Worker {
    async fn run(mut self) {
        while *self.wish.borrow() {
            if !self.publish_until_running().await {
                continue;
            }
            tokio::select! {
                () = unwanted(&mut self.wish) => {}
                _ = self.starts.changed() => {
                    tokio::time::sleep(self.shared.settings.timing.restart).await;
                }
            }
        }
        self.remove().await;
    }

    /// Publishes, with pauses, until it succeeds (true), the pod is to go, or kubelet starts anew (false).
    async fn publish_until_running(&mut self) -> bool {
        let mut failures = 0u32;
        while *self.wish.borrow() {
            let result = match self.attempt().await {
                Ended::Answered(result) => result,
                Ended::Restarted => return false,
            };
            let Err(status) = result else { return true };
            failures = failures.saturating_add(1);
            let pause = self.shared.settings.timing.pause(failures);
            tracing::debug!(pod = self.pod.name, code = ?status.code(), message = status.message(), "publish failed");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = unwanted(&mut self.wish) => {}
                _ = self.starts.changed() => failures = 0,
            }
        }
        false
    }

    async fn attempt(&mut self) -> Ended {
        let queue = self.shared.queue(&self.pod.volume_id);
        let _turn = queue.lock().await;
        let settings = self.shared.settings.clone();
        if let Err(error) = self.make_parent(&settings) {
            return Ended::Answered(Err(Status::internal(error.to_string())));
        }
        let request = self.pod.publish_request(&settings.dir);
        self.may_be_left = true;
        let result = tokio::select! {
            result = publish(&settings.socket, request, settings.timing.deadline) => result,
            _ = self.starts.changed() => {
                self.shared.note("publish", &self.pod, Code::Cancelled);
                tokio::time::sleep(settings.timing.restart).await;
                return Ended::Restarted;
            }
        };
        self.judge(&result);
        Ended::Answered(result)
    }

    /// Notes how a publish ended, and whether it left what it must not leave.
    fn judge(&mut self, result: &Result<(), Status>) {
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.shared.note("publish", &self.pod, code);
        let was_running = self.report.borrow().phase == Phase::Running;
        self.may_be_left = code == Code::Ok || is_uncertain(code) || was_running;
        if !self.may_be_left {
            self.shared.look_for_leftovers(&self.pod);
        }
        self.report.send_modify(|status| {
            status.attempts = status.attempts.saturating_add(1);
            status.error = result
                .as_ref()
                .err()
                .map(|error| (error.code(), error.message().to_owned()));
            if result.is_ok() {
                status.phase = Phase::Running;
            }
        });
    }

    fn make_parent(&self, settings: &Settings) -> std::io::Result<()> {
        let dir = crate::namespace::outside(&settings.root, &self.pod.volume_dir(&settings.dir));
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("vol_data.json"), b"{}")
    }

    async fn remove(&mut self) {
        let mut failures = 0u32;
        while self.may_be_left {
            let queue = self.shared.queue(&self.pod.volume_id);
            let turn = queue.lock().await;
            let settings = &self.shared.settings;
            let target = self.pod.target(&settings.dir);
            let result = unpublish(
                &settings.socket,
                &self.pod.volume_id,
                &target,
                settings.timing.deadline,
            )
            .await;
            drop(turn);
            let code = result.as_ref().err().map_or(Code::Ok, Status::code);
            self.shared.note("unpublish", &self.pod, code);
            match result {
                Ok(()) => {
                    self.shared.look_for_leftovers(&self.pod);
                    self.may_be_left = false;
                }
                Err(status) => {
                    failures = failures.saturating_add(1);
                    self.report.send_modify(|report| {
                        report.error = Some((status.code(), status.message().to_owned()));
                    });
                    tokio::time::sleep(settings.timing.pause(failures)).await;
                }
            }
        }
        self.shared.remove_dir(&self.pod);
        self.report.send_modify(|status| status.phase = Phase::Gone);
    }
}

impl Shared {
    /// One operation per volume: the pods of one claim wait for each other.
    fn queue(&self, volume_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(lock(&self.queues).entry(volume_id.to_owned()).or_default())
    }

    fn note(&self, rpc: &'static str, pod: &Pod, code: Code) {
        lock(&self.calls).push(Call {
            rpc,
            uid: pod.uid.clone(),
            code,
        });
    }

    fn look_for_leftovers(&self, pod: &Pod) {
        let target =
            crate::namespace::outside(&self.settings.root, &pod.target(&self.settings.dir));
        if target.symlink_metadata().is_ok() {
            lock(&self.leftovers).push(target);
        }
    }

    /// Removes what kubelet itself made, innermost first; what is not empty stays.
    fn remove_dir(&self, pod: &Pod) {
        let root = &self.settings.root;
        let volume = crate::namespace::outside(root, &pod.volume_dir(&self.settings.dir));
        drop(std::fs::remove_file(volume.join("vol_data.json")));
        let pods = crate::namespace::outside(root, &self.settings.dir.join("pods"));
        for dir in volume.ancestors().take_while(|dir| *dir != pods) {
            if std::fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }
}

async fn unwanted(wish: &mut watch::Receiver<bool>) {
    // The worker holds a sender itself, so waiting cannot fail.
    drop(wish.wait_for(|wanted| !wanted).await);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
