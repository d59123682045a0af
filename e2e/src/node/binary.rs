//! Builds the `tonnage` binary beside the program that runs now: same profile, same target directory.
//!
//! The whole workspace's features are used, so that nothing but the product's own crates is compiled again.
//! Each flavour is kept under a name of its own: cargo's name for it belongs to whoever builds next.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Which binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// As it is shipped.
    Plain,
    /// With the crash points of the `fail` crate compiled in.
    Failpoints,
}

impl Build {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "tonnage-e2e-plain",
            Self::Failpoints => "tonnage-e2e-failpoints",
        }
    }
}

/// Path of the binary, built if it is not up to date. `TONNAGE_BIN` names a plain one that is to be used as it is.
pub fn binary(build: Build) -> io::Result<PathBuf> {
    // A memo of work on disk, not state: asking cargo takes a second.
    static BUILT: Mutex<Vec<(&str, PathBuf)>> = Mutex::new(Vec::new());
    if build == Build::Plain
        && let Some(path) = std::env::var_os("TONNAGE_BIN")
    {
        return Ok(path.into());
    }
    let mut known = BUILT
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, path)) = known.iter().find(|(name, _)| *name == build.name()) {
        return Ok(path.clone());
    }
    let path = make(build)?;
    known.push((build.name(), path.clone()));
    Ok(path)
}

fn make(build: Build) -> io::Result<PathBuf> {
    let profile_dir = profile_dir()?;
    let kept = profile_dir.join(build.name());
    // Test programs run at the same time: one at a time builds and takes its copy.
    let lock = File::create(profile_dir.join(".tonnage-e2e-lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let output = cargo(build, &profile_dir)?.output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("building tonnage:\n{text}")));
    }
    let fresh = profile_dir.join("tonnage");
    if !is_same(&fresh, &kept) {
        let copy = kept.with_extension("new");
        std::fs::copy(&fresh, &copy)?;
        std::fs::rename(&copy, &kept)?;
    }
    Ok(kept)
}

fn cargo(build: Build, profile_dir: &Path) -> io::Result<Command> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .current_dir(workspace)
        .args(["build", "--quiet", "--workspace", "--bin", "tonnage"]);
    // Cargo tells the programs that it runs about their package, and build scripts (ring's) watch these variables:
    // handed on, they would make the inner cargo compile half of the dependencies again, and the next outer one too.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if [
            "CARGO_PKG_",
            "CARGO_MANIFEST_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
        ]
        .iter()
        .any(|prefix| text.starts_with(prefix))
            || text == "CARGO_PRIMARY_PACKAGE"
        {
            command.env_remove(&name);
        }
    }
    // What cargo tells a test about its package would make build scripts of others run again.
    for (name, _) in std::env::vars_os() {
        let told = [
            "CARGO_MANIFEST_",
            "CARGO_PKG_",
            "CARGO_BIN_",
            "CARGO_CRATE_",
            "CARGO_PRIMARY_",
        ];
        if told
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        {
            command.env_remove(name);
        }
    }
    if let Some(target_dir) = profile_dir.parent() {
        command.arg("--target-dir").arg(target_dir);
    }
    match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => {}
        Some(profile) => {
            command.args(["--profile", profile]);
        }
        None => return Err(io::Error::other("the target directory has no name")),
    }
    if build == Build::Failpoints {
        command.args(["--features", "tonnage-csi/failpoints"]);
    }
    Ok(command)
}

/// `target/PROFILE` of the running program, which lies there or one or two directories below.
fn profile_dir() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let mut dir = program.parent();
    while let Some(candidate) = dir {
        if candidate.join("deps").is_dir() && candidate.file_name().is_some_and(|it| it != "deps") {
            return Ok(candidate.to_owned());
        }
        dir = candidate.parent();
    }
    let shown = program.display();
    Err(io::Error::other(format!(
        "{shown} is not in a cargo target directory; set TONNAGE_BIN"
    )))
}

fn is_same(fresh: &Path, kept: &Path) -> bool {
    let facts = |path: &Path| {
        path.metadata()
            .and_then(|it| Ok((it.len(), it.modified()?)))
    };
    match (facts(fresh), facts(kept)) {
        (Ok((length, made)), Ok((kept_length, copied))) => length == kept_length && made <= copied,
        _ => false,
    }
}
