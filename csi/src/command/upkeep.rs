//! `tonnage cache gc|verify|pin|unpin`: asks the node service that owns the cache, or does it here if nobody
//! owns it. `ls` and `du` are forwarded to the files that only look.

use tokio_util::sync::CancellationToken;
use tonnage_cache::digest::Digest;
use tonnage_csi::control;
use tonnage_csi::upkeep::{Answer, Error, Extent, Request, Upkeep};

use super::{inventory, open, space};
use crate::args::cache::{self, Gc, Pin, Unpin, Verify};
use crate::args::place::Place;
use crate::config::Config;
use crate::console::Console;
use crate::exit::{Code, Failure};
use tonnage_csi::size::ByteSize;

pub(super) async fn run(
    verb: cache::Cache,
    config: &Config,
    console: &Console,
    stop: &CancellationToken,
) -> Result<Code, Failure> {
    match verb {
        cache::Cache::Ls(args) => inventory::ls(args, config, console),
        cache::Cache::Du(args) => space::du(args, config, console),
        cache::Cache::Gc(Gc {
            place,
            free,
            all,
            json,
        }) => {
            let extent = match (all, free) {
                (true, _) => Extent::All,
                (false, Some(ByteSize(bytes))) => Extent::Bytes(bytes),
                (false, None) => Extent::Expired,
            };
            let answer = ask(place, config, Request::Evict(extent), stop).await?;
            show(&answer, json, console)
        }
        cache::Cache::Verify(Verify {
            digest,
            place,
            rate,
            json,
        }) => {
            let request = Request::Verify {
                only: digest,
                rate: rate.map(|ByteSize(bytes)| bytes),
            };
            let answer = ask(place, config, request, stop).await?;
            show(&answer, json, console)
        }
        cache::Cache::Pin(Pin {
            name,
            digest,
            place,
        }) => {
            let root = place.root.clone().directory(config)?;
            inventory::records(&root)?;
            let digest = inventory::find(&root, &digest)?;
            let answer = ask(place, config, Request::Pin { name, digest }, stop).await?;
            show(&answer, false, console)
        }
        cache::Cache::Unpin(Unpin { name, place }) => {
            let answer = ask(place, config, Request::Unpin { name }, stop).await?;
            show(&answer, false, console)
        }
    }
}

/// Asks whoever owns the cache; that is this process if nobody answers.
pub(super) async fn ask(
    place: Place,
    config: &Config,
    request: Request,
    stop: &CancellationToken,
) -> Result<Answer, Failure> {
    let what = what(&request);
    let root = place.root.clone().directory(config)?;
    inventory::records(&root)?;
    let work = async {
        let asked = control::ask(&root, &request).await;
        if let Some(answer) = asked.map_err(|error| Failure::of(what, error.kind(), &error))? {
            return Ok(answer);
        }
        let owned = open(place, config).await?;
        perform(&owned.upkeep, request).await
    };
    tokio::select! {
        outcome = work => outcome,
        () = stop.cancelled() => Err(Failure::stopped(Code::Interrupted)),
    }
}

async fn perform(upkeep: &Upkeep, request: Request) -> Result<Answer, Failure> {
    let what = what(&request);
    upkeep
        .perform(request)
        .await
        .map_err(|error: Error| Failure::of(what, error.kind(), &error))
}

/// Pins content in a cache that this process owns.
pub(super) async fn pin_here(upkeep: &Upkeep, name: &str, digest: Digest) -> Result<(), Failure> {
    perform(
        upkeep,
        Request::Pin {
            name: name.to_owned(),
            digest,
        },
    )
    .await
    .map(|_| ())
}

const fn what(request: &Request) -> &'static str {
    match request {
        Request::Evict(_) => "evict from the cache",
        Request::Verify { .. } => "verify the cache",
        Request::Pin { .. } => "pin content",
        Request::Unpin { .. } => "unpin content",
    }
}

fn show(answer: &Answer, json: bool, console: &Console) -> Result<Code, Failure> {
    if json {
        console.json(answer)?;
    }
    match answer {
        Answer::Freed {
            bytes,
            views,
            objects,
            partials,
        } => {
            if !json {
                console.result(format!(
                    "freed {}: {views} views, {objects} objects, {partials} unfinished downloads",
                    ByteSize(*bytes)
                ))?;
            }
            Ok(Code::Done)
        }
        Answer::Verified {
            objects,
            bytes,
            damaged,
        } => {
            if !json {
                console.result(format!(
                    "{objects} objects, {} read, {} damaged",
                    ByteSize(*bytes),
                    damaged.len()
                ))?;
                for digest in damaged {
                    console.result(format!("damaged: {digest}"))?;
                }
            }
            Ok(if damaged.is_empty() {
                Code::Done
            } else {
                Code::Data
            })
        }
        Answer::Pinned => Ok(Code::Done),
        Answer::Unpinned { digest } => {
            console.remark(format!(
                "{digest} may be evicted now, unless something else keeps it"
            ));
            Ok(Code::Done)
        }
    }
}
