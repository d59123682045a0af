//! The demo where mounts are not allowed: `tonnage pull` gives the path of the view, whose files are compared.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tonnage_cache::clock::{Clock, SystemClock};

use super::Error;
use super::screen::{Screen, size, time};
use crate::generate::Tree;
use crate::oracle::{hash_file, list_files};
use crate::s3::S3Server;
use crate::scratch::Scratch;

/// Pulls twice and compares every file.
pub(super) async fn show(
    mut screen: Screen,
    server: S3Server,
    binary: &Path,
    tree: &Tree,
) -> Result<(), Error> {
    let dir = Scratch::new()?;
    server.put_tree("models", "llama/", tree);
    let cache = dir.path().join("cache");
    let (view, took) = pull(binary, &server, &cache).await?;
    screen.step(
        "tonnage pull, nothing cached",
        &format!("ready after {}", time(took)),
    )?;
    screen.detail(&format!(
        "{} over the wire",
        size(server.wire().total_bytes())
    ))?;
    screen.detail(&view.display().to_string())?;
    server.reset_wire();
    let (again, took) = pull(binary, &server, &cache).await?;
    screen.step(
        "tonnage pull, again",
        &format!("ready after {}", time(took)),
    )?;
    screen.detail(&format!(
        "{} over the wire",
        size(server.wire().total_bytes())
    ))?;
    if again != view || server.wire().total_bytes() != 0 {
        return Err("the second pull did not find the first one's view".into());
    }
    let digests = tree.digests()?;
    if list_files(&view)?.len() != digests.len() {
        return Err("the view does not have the model's files".into());
    }
    for (path, digest) in &digests {
        if hash_file(&view.join(path))? != *digest {
            return Err(format!("{path} differs from what was uploaded").into());
        }
    }
    let text = format!("{} files, {}: equal", digests.len(), size(tree.size()));
    screen.step("every file of the view", &text)?;
    server.shutdown().await;
    let path = dir.path().to_owned();
    drop(dir);
    if path.exists() {
        return Err(format!("{} is left", path.display()).into());
    }
    screen.step("taken down", "no process, no file is left")?;
    Ok(())
}

async fn pull(
    binary: &Path,
    server: &S3Server,
    cache: &Path,
) -> Result<(PathBuf, Duration), Error> {
    let clock = SystemClock::new();
    let mut command = std::process::Command::new(binary);
    command.args([
        "pull",
        "s3://models/llama",
        "--endpoint",
        &server.endpoint(),
    ]);
    command.arg("--cache-dir").arg(cache).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("tonnage pull ended with {}: {text}", output.status).into());
    }
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((path.into(), clock.monotonic()))
}
