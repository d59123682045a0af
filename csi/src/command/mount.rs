//! `tonnage mount` and `tonnage unmount`: a view on a directory of the person's choice. The content is pinned under
//! `mount:<target>` as long as the mount is there, so that no later command or service evicts it.

use std::path::Path;

use tokio_util::sync::CancellationToken;
use tonnage_csi::mount::{KernelMounter, Mounter, Table};
use tonnage_csi::target::Spot;
use tonnage_csi::upkeep::{Answer, Request, Upkeep};
use tonnage_csi::volume::MountFlags;
use tonnage_csi::{mount, target};

use super::doctor::may_mount;
use super::load::{Outcome, load, options, remember};
use super::upkeep::{ask, pin_here};
use super::{Owned, open};
use crate::args::load::{Mount, Unmount};
use crate::config::Config;
use crate::console::Console;
use crate::exit::{Code, Failure};

pub(super) async fn mount(
    args: Mount,
    config: &Config,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Mount {
        wanted,
        target,
        pins,
        place,
        page_cache,
        json,
    } = args;
    let what = format!("mount on {}", target.display());
    // Before anything is fetched: a load of hours must not end at a refused mount.
    let spot = free_spot(&what, &target)?;
    let reference = wanted.reference(Some(pins), config)?;
    let owned = open(place, config).await?;
    let pin = pin_name(spot.path());
    let holder = tonnage_csi::pin::holder(&pin);
    let loaded = load(
        &owned.cache,
        &reference,
        options(holder, page_cache.into(), stop),
        console,
    )
    .await?;
    remember(&owned.cache, &reference, &loaded);
    keep(&owned, &pin, &loaded).await?;
    if let Err(failure) = attach(&what, &loaded.view, &spot) {
        let_go(&owned.upkeep, &pin).await;
        return Err(failure);
    }
    owned.cache.store().sync_now().await;
    if json {
        console.json(&Outcome::of(&loaded).mounted_on(spot.path()))?;
    } else {
        console.result(spot.path().display())?;
    }
    Ok(Code::Done)
}

/// The target, if this process may mount and nothing is mounted there.
fn free_spot(what: &str, target: &Path) -> Result<Spot, Failure> {
    if !may_mount() {
        return Err(
            Failure::new(Code::Denied, what, "this user may not mount").or_advise(
                "run it as root, or in `unshare -Urm`; `tonnage pull` needs no privileges",
            ),
        );
    }
    let spot = Spot::at(target).map_err(|error| bad_target(what, &error))?;
    let table = KernelMounter::new()
        .mounts()
        .map_err(|error| refused(what, &error))?;
    if table.at(spot.path()).next().is_some() {
        return Err(
            Failure::new(Code::Conflict, what, "something is mounted there already")
                .or_advise("unmount it, or choose another directory"),
        );
    }
    Ok(spot)
}

fn attach(what: &str, view: &Path, spot: &Spot) -> Result<(), Failure> {
    let made = spot
        .ensure_dir()
        .map_err(|error| bad_target(what, &error))?;
    KernelMounter::new()
        .attach(view, spot, MountFlags::default())
        .map_err(|error| {
            if made && let Err(left) = spot.remove_dir() {
                tracing::warn!(error = %left, "the target directory stays behind");
            }
            refused(what, &error)
        })
}

/// Pins the content for the mount. A pin that is there already is that of a mount which a reboot ended.
async fn keep(
    owned: &Owned,
    pin: &str,
    loaded: &tonnage_cache::cache::Loaded,
) -> Result<(), Failure> {
    match pin_here(&owned.upkeep, pin, loaded.manifest_digest).await {
        Err(failure) if failure.code == Code::Conflict => {
            let_go(&owned.upkeep, pin).await;
            pin_here(&owned.upkeep, pin, loaded.manifest_digest).await
        }
        outcome => outcome,
    }
}

async fn let_go(upkeep: &Upkeep, pin: &str) {
    if let Err(error) = upkeep
        .perform(Request::Unpin {
            name: pin.to_owned(),
        })
        .await
    {
        tracing::warn!(%error, "the mount's pin stays behind");
    }
}

pub(super) async fn unmount(
    args: Unmount,
    config: &Config,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    let Unmount { target, place } = args;
    let what = format!("unmount {}", target.display());
    let spot = Spot::at(&target).map_err(|error| bad_target(&what, &error))?;
    let root = place.root.clone().directory(config)?;
    let mounted = detach(&what, &root, &spot)?;
    let pin = pin_name(spot.path());
    match ask(place, config, Request::Unpin { name: pin }, stop).await {
        Ok(Answer::Unpinned { .. }) if !mounted => {
            console.remark("it was not mounted any more; its content may be evicted now");
        }
        Ok(_) => {}
        Err(failure) if failure.code == Code::Missing && mounted => {}
        Err(failure) if failure.code == Code::Missing => {
            return Err(Failure::new(
                Code::Missing,
                what,
                "nothing is mounted there",
            ));
        }
        Err(failure) => return Err(failure),
    }
    Ok(Code::Done)
}

/// Takes our mount off; says whether there was one.
fn detach(what: &str, root: &Path, spot: &Spot) -> Result<bool, Failure> {
    let table = KernelMounter::new()
        .mounts()
        .map_err(|error| refused(what, &error))?;
    if table.at(spot.path()).next().is_none() {
        return Ok(false);
    }
    if !is_ours(&table, root, spot.path()) {
        return Err(Failure::new(
            Code::Conflict,
            what,
            format!("what is mounted there is no view of {}", root.display()),
        )
        .or_advise("name the cache with --cache-dir, or use umount"));
    }
    KernelMounter::new()
        .detach(spot)
        .map_err(|error| refused(what, &error))?;
    Ok(true)
}

/// Whether the topmost mount on `point` shows a view of the cache at `root`.
fn is_ours(table: &Table, root: &Path, point: &Path) -> bool {
    let views = root
        .canonicalize()
        .unwrap_or_else(|_| root.to_path_buf())
        .join("views");
    let (Some(top), Some((below, within))) = (table.at(point).next_back(), table.locate(&views))
    else {
        return false;
    };
    top.device == below.device && top.root.starts_with(within)
}

fn pin_name(target: &Path) -> String {
    format!("mount:{}", target.display())
}

fn bad_target(what: &str, error: &target::Error) -> Failure {
    let failure = Failure::of(what, error.kind(), error);
    match error {
        target::Error::Path(_) => failure,
        target::Error::Malformed { .. }
        | target::Error::Escapes { .. }
        | target::Error::NoParent { .. }
        | target::Error::NotADirectory { .. } => failure.with_code(Code::Usage),
    }
}

fn refused(what: &str, error: &mount::Error) -> Failure {
    let failure = Failure::of(what, error.kind(), error);
    match error {
        mount::Error::NotPermitted { .. } => failure
            .with_code(Code::Denied)
            .or_advise("run it as root, or in `unshare -Urm`; `tonnage pull` needs no privileges"),
        mount::Error::Target(error) => bad_target(what, error),
        mount::Error::Path(_)
        | mount::Error::NotMounted { .. }
        | mount::Error::Unguarded { .. }
        | mount::Error::Table { .. } => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_ours_if_its_root_is_a_view_of_this_cache() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            40 22 8:1 /no/such/cache/views/ab.0 /mnt/ours ro - ext4 /dev/sda1 rw\n\
            41 22 8:1 /srv /mnt/other rw - ext4 /dev/sda1 rw\n\
            42 22 0:7 /no/such/cache/views/ab.0 /mnt/elsewhere ro - tmpfs tmpfs rw\n";
        let table = Table::parse(text).unwrap();
        let ours = |point: &str| is_ours(&table, Path::new("/no/such/cache"), Path::new(point));
        assert!(ours("/mnt/ours"));
        assert!(!ours("/mnt/other") && !ours("/mnt/elsewhere") && !ours("/mnt/none"));
    }
}
