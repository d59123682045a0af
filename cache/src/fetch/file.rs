//! The two ends of a large file: opening it in the store, or learning that another job brought it, and
//! committing it once all parts are there. Also the files without content, which need no request.

use std::sync::Arc;

use crate::digest::{Digest, PartHash};
use crate::store::{self, Partial, PartialKey, Writing};

use super::Error;
use super::context::Context;
use super::run::put_small;

/// What opening a file found.
#[derive(Debug)]
pub(super) enum Opened {
    /// A new or resumed partial file.
    Partial(Partial),
    /// Another job has completed this object version meanwhile.
    Known(Digest),
    /// Another job is writing it.
    Busy,
}

/// Opens a large file. `contested` says that it was busy before: then the other job's result is looked for.
pub(super) async fn open(
    context: Arc<Context>,
    index: usize,
    (writing, contested): (Writing, bool),
) -> Result<Opened, Error> {
    let Some(entry) = context.entry(index) else {
        return Ok(Opened::Busy);
    };
    let key = context.key(entry);
    if contested
        && let Some((digest, size)) = known(&context, key).await?
        && size == entry.size
        && context.store.find(digest, size).await?
    {
        check(&context, index, digest)?;
        return Ok(Opened::Known(digest));
    }
    match context.store.begin(key, entry.size, writing).await {
        Ok(partial) => Ok(Opened::Partial(partial)),
        Err(store::Error::Busy) => Ok(Opened::Busy),
        Err(error) => Err(error.into()),
    }
}

/// What the stage log says about an object version.
async fn known(context: &Arc<Context>, key: PartialKey) -> Result<Option<(Digest, u64)>, Error> {
    let context = Arc::clone(context);
    let read = move || context.store.known_objects(context.source.uid());
    let known = tokio::task::spawn_blocking(read)
        .await
        .map_err(Error::Task)??;
    Ok(known.get(&key).copied())
}

/// Names a file's content; true with the digest if it was stored already.
pub(super) async fn commit(
    context: Arc<Context>,
    index: usize,
    partial: Partial,
) -> Result<(Digest, bool), Error> {
    let Some(entry) = context.entry(index) else {
        return Err(Error::Incomplete { missing: 1 });
    };
    let committed = match partial.commit(context.expected(entry)).await {
        Ok(committed) => committed,
        Err(store::Error::Mismatch { expected, found }) => {
            return Err(Error::Mismatch {
                path: entry.path.clone(),
                expected,
                found,
            });
        }
        Err(error) => return Err(error.into()),
    };
    context.note(entry, committed.digest)?;
    context.progress.add_file();
    Ok((committed.digest, committed.deduplicated))
}

/// Stores the files without content.
pub(super) async fn put_empty(context: Arc<Context>, entries: Vec<usize>) -> Result<(), Error> {
    let digest = Digest::of(b"");
    for index in entries {
        check(&context, index, digest)?;
        let buffer = context.buffers.take().await;
        let hash = PartHash::Whole(digest);
        put_small(&context, (index, Writing::Warm), (buffer, 0, hash)).await?;
    }
    Ok(())
}

fn check(context: &Context, index: usize, found: Digest) -> Result<(), Error> {
    let Some(entry) = context.entry(index) else {
        return Ok(());
    };
    match context.expected(entry) {
        Some(expected) if expected != found => Err(Error::Mismatch {
            path: entry.path.clone(),
            expected,
            found,
        }),
        _ => Ok(()),
    }
}
