//! A disk that remembers every verb and fails the chosen ones: the n-th with an error, or from the n-th on all of
//! them (a power cut as the process sees it), or the n-th after running something (a real power cut).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, Handle, Name, Open, Space, Stat};
use crate::buffer::Buffer;

/// The verbs of [`Disk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the method of the same name")]
pub enum Verb {
    Open,
    Allocate,
    WriteAt,
    ReadAt,
    Append,
    Read,
    Truncate,
    Seal,
    SyncData,
    SyncFilesystem,
    CheckWritten,
    SyncDir,
    WriteBack,
    Forget,
    Reflink,
    Rename,
    RenameNoreplace,
    Link,
    Unlink,
    CreateDir,
    RemoveDir,
    RemoveTree,
    SetMode,
    Stat,
    List,
    Space,
    DirectAlignment,
}

/// What happens to a verb.
pub enum Fault {
    /// It fails with this error number and has no effect.
    Errno(i32),
    /// It and everything after it fails with `EIO` and has no effect.
    Cut,
    /// This runs first; then the verb is passed on.
    Call(Box<dyn FnOnce() + Send>),
    /// The space verb answers this.
    Space(Space),
    /// A sync verb of files reports success and does nothing: a disk that lies, or a program that forgets.
    Skip,
}

/// What becomes of a verb that does not fail.
enum Passed {
    On,
    Skipped,
    Space(Space),
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(number) => write!(f, "Errno({number})"),
            Self::Cut => f.write_str("Cut"),
            Self::Call(_) => f.write_str("Call"),
            Self::Space(space) => write!(f, "Space({space:?})"),
            Self::Skip => f.write_str("Skip"),
        }
    }
}

#[derive(Debug)]
struct Rule {
    verb: Option<Verb>,
    /// Matching verbs still to pass before it strikes.
    skip: u64,
    /// Strikes every matching verb from then on.
    stays: bool,
    fault: Fault,
}

#[derive(Debug, Default)]
struct State {
    verbs: Vec<(Verb, PathBuf)>,
    rules: Vec<Rule>,
    dead: bool,
}

/// A decorator that counts, remembers and fails verbs.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    inner: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
}

impl FaultyDisk {
    /// Passes everything on until told otherwise. Clones share their state.
    pub fn new(inner: impl Disk + 'static) -> Self {
        Self {
            inner: Arc::new(inner),
            state: Arc::default(),
        }
    }

    /// The fault strikes the `n`-th verb from now, counted from 0.
    pub fn strike(&self, n: u64, fault: Fault) {
        self.add(None, n, false, fault);
    }

    /// The fault strikes the `n`-th `verb` from now, counted from 0.
    pub fn strike_verb(&self, verb: Verb, n: u64, fault: Fault) {
        self.add(Some(verb), n, false, fault);
    }

    /// The fault strikes each `verb` from now on; [`Fault::Call`] strikes once.
    pub fn strike_every(&self, verb: Verb, fault: Fault) {
        self.add(Some(verb), 0, true, fault);
    }

    /// Forgets all rules and lets everything pass again.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.rules.clear();
        state.dead = false;
    }

    /// The verbs so far, in order, with the path each was applied to.
    pub fn verbs(&self) -> Vec<(Verb, PathBuf)> {
        self.lock().verbs.clone()
    }

    /// How many verbs there were so far.
    pub fn count(&self) -> u64 {
        self.lock().verbs.len() as u64
    }

    /// Whether the power was cut.
    pub fn is_cut(&self) -> bool {
        self.lock().dead
    }

    fn add(&self, verb: Option<Verb>, skip: u64, stays: bool, fault: Fault) {
        self.lock().rules.push(Rule {
            verb,
            skip,
            stays,
            fault,
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a verb; fails it if its time has come.
    fn pass(&self, verb: Verb, path: &Path) -> io::Result<Passed> {
        let mut state = self.lock();
        state.verbs.push((verb, path.to_path_buf()));
        if state.dead {
            return Err(dead());
        }
        let mut due = None;
        for (index, rule) in state.rules.iter_mut().enumerate() {
            if rule.verb.is_none_or(|wanted| wanted == verb) {
                match rule.skip.checked_sub(1) {
                    Some(left) => rule.skip = left,
                    None => due = due.or(Some(index)),
                }
            }
        }
        let Some(index) = due else {
            return Ok(Passed::On);
        };
        match state.rules.get(index) {
            Some(Rule {
                stays: true,
                fault: Fault::Errno(number),
                ..
            }) => {
                return Err(io::Error::from_raw_os_error(*number));
            }
            Some(Rule {
                stays: true,
                fault: Fault::Space(space),
                ..
            }) => return Ok(Passed::Space(*space)),
            Some(Rule {
                stays: true,
                fault: Fault::Skip,
                ..
            }) => return Ok(Passed::Skipped),
            _ => {}
        }
        match state.rules.remove(index).fault {
            Fault::Errno(number) => Err(io::Error::from_raw_os_error(number)),
            Fault::Space(space) => Ok(Passed::Space(space)),
            Fault::Skip => Ok(Passed::Skipped),
            Fault::Cut => {
                state.dead = true;
                Err(dead())
            }
            Fault::Call(call) => {
                drop(state);
                call();
                Ok(Passed::On)
            }
        }
    }
}

fn dead() -> io::Error {
    io::Error::from(rustix::io::Errno::IO)
}

#[deny(clippy::missing_trait_methods)]
impl Disk for FaultyDisk {
    fn open(&self, path: &Path, open: Open) -> io::Result<Handle> {
        self.pass(Verb::Open, path)?;
        self.inner.open(path, open)
    }

    fn allocate(&self, file: &Handle, length: u64) -> io::Result<()> {
        self.pass(Verb::Allocate, file.path())?;
        self.inner.allocate(file, length)
    }

    fn write_at(
        &self,
        file: &Handle,
        buffer: Buffer,
        length: usize,
        offset: u64,
    ) -> io::Result<Buffer> {
        self.pass(Verb::WriteAt, file.path())?;
        self.inner.write_at(file, buffer, length, offset)
    }

    fn read_at(
        &self,
        file: &Handle,
        buffer: Buffer,
        length: usize,
        offset: u64,
    ) -> io::Result<(Buffer, usize)> {
        self.pass(Verb::ReadAt, file.path())?;
        self.inner.read_at(file, buffer, length, offset)
    }

    fn append(&self, file: &Handle, bytes: &[u8]) -> io::Result<()> {
        self.pass(Verb::Append, file.path())?;
        self.inner.append(file, bytes)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.pass(Verb::Read, path)?;
        self.inner.read(path)
    }

    fn truncate(&self, file: &Handle, length: u64) -> io::Result<()> {
        self.pass(Verb::Truncate, file.path())?;
        self.inner.truncate(file, length)
    }

    fn seal(&self, file: &Handle) -> io::Result<()> {
        self.pass(Verb::Seal, file.path())?;
        self.inner.seal(file)
    }

    fn sync_data(&self, file: &Handle) -> io::Result<()> {
        match self.pass(Verb::SyncData, file.path())? {
            Passed::Skipped => Ok(()),
            Passed::On | Passed::Space(_) => self.inner.sync_data(file),
        }
    }

    fn sync_filesystem(&self, file: &Handle) -> io::Result<()> {
        match self.pass(Verb::SyncFilesystem, file.path())? {
            Passed::Skipped => Ok(()),
            Passed::On | Passed::Space(_) => self.inner.sync_filesystem(file),
        }
    }

    fn check_written(&self, file: &Handle) -> io::Result<()> {
        self.pass(Verb::CheckWritten, file.path())?;
        self.inner.check_written(file)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Verb::SyncDir, path)?;
        self.inner.sync_dir(path)
    }

    fn write_back(&self, file: &Handle, offset: u64, length: u64) -> io::Result<()> {
        self.pass(Verb::WriteBack, file.path())?;
        self.inner.write_back(file, offset, length)
    }

    fn forget(&self, file: &Handle) -> io::Result<()> {
        self.pass(Verb::Forget, file.path())?;
        self.inner.forget(file)
    }

    fn reflink(&self, from: &Handle, to: &Handle) -> io::Result<()> {
        self.pass(Verb::Reflink, to.path())?;
        self.inner.reflink(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Verb::Rename, to)?;
        self.inner.rename(from, to)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Verb::RenameNoreplace, to)?;
        self.inner.rename_noreplace(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.pass(Verb::Link, to)?;
        self.inner.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.pass(Verb::Unlink, path)?;
        self.inner.unlink(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.pass(Verb::CreateDir, path)?;
        self.inner.create_dir(path, mode)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.pass(Verb::RemoveDir, path)?;
        self.inner.remove_dir(path)
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        self.pass(Verb::RemoveTree, path)?;
        self.inner.remove_tree(path)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.pass(Verb::SetMode, path)?;
        self.inner.set_mode(path, mode)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.pass(Verb::Stat, path)?;
        self.inner.stat(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Name>> {
        self.pass(Verb::List, path)?;
        self.inner.list(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        match self.pass(Verb::Space, path)? {
            Passed::Space(space) => Ok(space),
            Passed::On | Passed::Skipped => self.inner.space(path),
        }
    }

    fn direct_alignment(&self, path: &Path) -> io::Result<Option<u32>> {
        self.pass(Verb::DirectAlignment, path)?;
        self.inner.direct_alignment(path)
    }
}
