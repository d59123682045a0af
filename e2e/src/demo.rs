//! `cargo run --release --bin demo`: the whole path of a model on one machine, told in a dozen lines.
//!
//! An S3 server on loopback, the real binary's node and controller services in a mount namespace of their own, and
//! the kubelet of this crate. Every line is proved from outside the driver; a line that cannot be proved ends the demo with an
//! error. Nothing is left, whatever happens: files are in a temporary directory, mounts in the namespace.

mod limits;
mod report;
mod screen;
mod story;
mod unmounted;

use std::path::PathBuf;

use screen::{Screen, size};

use crate::generate::{Model, ModelSpec, Tree};
use crate::namespace::Namespace;
use crate::node::{Build, Site, binary};
use crate::s3::S3Server;

/// What can go wrong in a demo.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What to show.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of a real model; one is generated where none is named.
    pub model: Option<PathBuf>,
    /// Size of the generated model in bytes.
    pub size: u64,
    /// Show the view without mounting it, as where mounting is not allowed.
    pub no_mount: bool,
}

/// Runs the demo from start to end.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let screen = Screen::new();
    let tree = model(&settings)?;
    let binary = binary(Build::Plain)?;
    let mut builder = S3Server::builder();
    if let Ok(free) = available_memory()
        && tree.size().saturating_mul(4) < free
    {
        builder = builder.hold_in_memory(tree.size().saturating_mul(2));
    }
    let server = builder.start().await?;
    let what = format!("{} in {} files", size(tree.size()), tree.len());
    if settings.no_mount {
        screen.title(&format!(
            "Tonnage: {what}, S3 server on {}, no mounts",
            server.address()
        ))?;
        return unmounted::show(screen, server, &binary, &tree).await;
    }
    let namespace = match Namespace::create() {
        Ok(namespace) => namespace,
        Err(error) => {
            screen.title(&format!(
                "Tonnage: {what}, S3 server on {}",
                server.address()
            ))?;
            screen.line("mounting is not possible", &error.to_string())?;
            return unmounted::show(screen, server, &binary, &tree).await;
        }
    };
    let whose = if namespace.is_unprivileged() {
        "in a user and mount namespace"
    } else {
        "as root in a private mount namespace"
    };
    screen.title(&format!(
        "Tonnage: {what}, S3 server on {}, {whose}",
        server.address()
    ))?;
    let site = Site::new(namespace)?;
    let mut stage = story::Stage::open(screen, server, site, binary, tree).await?;
    let limit = stage.limits().await?;
    stage.first_pod(limit).await?;
    stage.new_revision().await?;
    stage.copy().await?;
    stage.verify()?;
    stage.refuse_writes()?;
    stage.close().await
}

fn model(settings: &Settings) -> Result<Tree, Error> {
    if let Some(dir) = &settings.model {
        let tree = Tree::from_dir(dir)?;
        if tree.is_empty() {
            return Err(format!("{} holds no file", dir.display()).into());
        }
        return Ok(tree);
    }
    Ok(Model::generate(&ModelSpec {
        seed: 1,
        size: settings.size,
        shards: 4,
        small_files: 8,
    }))
}

/// `MemAvailable`, in bytes.
fn available_memory() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|it| it.parse::<u64>().ok());
    Ok(kib.unwrap_or(0).saturating_mul(1024))
}
