//! How the program ends: the one table from causes to exit codes, and [`Failure`], the one sentence that says
//! what failed, why, and what to do. Codes follow sysexits(3) where it has a word for the cause. They are an
//! interface: scripts branch on them, so a number keeps its meaning.

use std::error::Error as StdError;
use std::fmt;
use std::process::ExitCode;

use tonnage_cache::error::{Kind, chain};

/// What the exit codes mean, as `--help` shows them.
pub(crate) const CODES: &str = "\
Exit codes:
  0    done
  1    `doctor` found something that must be changed, or `uninstall-check` a pod that uses a volume
  64   the command line, a URL, a path or the configuration is wrong
  65   content differs from its digest, stored data is damaged, or what decides could not be read
  66   the source, path, file or target does not exist, or there is nothing to replay
  67   credentials are missing, expired or not accepted
  69   the source cannot be reached or keeps failing; try again
  70   a bug or an I/O error of this machine
  71   a limit is used up
  73   no space is left for it
  75   another process is using the cache directory; try again
  76   the source shows another revision or size than the one asked for
  77   permission denied, by a policy, the source or this machine
  130  stopped by Ctrl-C (143: by SIGTERM); run the same command to resume";

/// Why the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// All went well.
    Done,
    /// `doctor` found a failing check, or `uninstall-check` a volume in use.
    Unfit,
    /// The request is wrong.
    Usage,
    /// Content is not what it must be.
    Data,
    /// Something named does not exist.
    Missing,
    /// Credentials are not accepted.
    Credentials,
    /// The source fails in a way that may pass.
    Unavailable,
    /// A bug or a local I/O error.
    Internal,
    /// A limit is used up.
    Limit,
    /// The disk is full.
    Space,
    /// The store is in use.
    Busy,
    /// What was found contradicts what was asked for.
    Conflict,
    /// Someone refuses.
    Denied,
    /// SIGINT.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

impl Code {
    /// The number that the shell sees.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Unfit => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Missing => 66,
            Self::Credentials => 67,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Limit => 71,
            Self::Space => 73,
            Self::Busy => 75,
            Self::Conflict => 76,
            Self::Denied => 77,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

impl From<Kind> for Code {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Invalid => Self::Usage,
            Kind::NotFound => Self::Missing,
            Kind::Denied => Self::Denied,
            Kind::Unauthenticated => Self::Credentials,
            Kind::Conflict => Self::Conflict,
            Kind::Busy => Self::Busy,
            Kind::NoSpace => Self::Space,
            Kind::Exhausted => Self::Limit,
            Kind::Corrupt => Self::Data,
            Kind::Transient => Self::Unavailable,
            Kind::Internal => Self::Internal,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.number())
    }
}

/// One clear sentence and a code: `what: why; what to do`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// How the program ends.
    pub(crate) code: Code,
    what: String,
    why: String,
    remedy: Option<String>,
}

impl Failure {
    /// A failure whose cause is known in words.
    pub(crate) fn new(code: Code, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            why: why.into(),
            remedy: None,
        }
    }

    /// A failure of the cache or the driver: its chain of causes in one line, and the code of its kind. Where this
    /// machine's refusal is at the bottom, the code says that instead.
    pub(crate) fn of(
        what: impl Into<String>,
        kind: Kind,
        error: &(dyn StdError + 'static),
    ) -> Self {
        let mut failure = Self::new(kind.into(), what, chain(error));
        if let Some(io) = io_cause(error) {
            failure.code = match (kind, local_code(io)) {
                (Kind::Internal, code) | (Kind::Invalid, code @ Code::Denied) => code,
                _ => failure.code,
            };
        }
        failure
    }

    /// An I/O error of this machine.
    pub(crate) fn io(what: impl Into<String>, error: &std::io::Error) -> Self {
        Self::new(local_code(error), what, error.to_string())
    }

    /// The same failure with another code.
    #[must_use]
    pub(crate) fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// The program was asked to stop.
    pub(crate) fn stopped(code: Code) -> Self {
        Self::new(code, "", "stopped").or_advise("run the same command to resume")
    }

    /// What a command says that was cancelled is no news, unless it says more than that.
    #[must_use]
    pub(crate) fn or_stopped(self, code: Code) -> Self {
        if self.code == Code::Interrupted {
            Self::stopped(code)
        } else {
            self
        }
    }

    /// Says what to do about it, unless something was said before.
    #[must_use]
    pub(crate) fn or_advise(mut self, remedy: impl Into<String>) -> Self {
        self.remedy.get_or_insert_with(|| remedy.into());
        self
    }

    /// The sentence without the program's name.
    pub(crate) fn sentence(&self) -> String {
        let remedy = self.remedy.as_deref().unwrap_or(self.usual_remedy());
        let mut text = if self.what.is_empty() {
            self.why.clone()
        } else {
            format!("{}: {}", self.what, self.why)
        };
        if !remedy.is_empty() {
            text.push_str("; ");
            text.push_str(remedy);
        }
        text
    }

    const fn usual_remedy(&self) -> &'static str {
        match self.code {
            Code::Credentials => {
                "check the keys in the environment (`tonnage pull --help` names the variables) or the source's files"
            }
            Code::Unavailable => "try again: what has arrived is kept",
            Code::Space => {
                "free some space, run `tonnage cache gc --all`, or choose another --cache-dir"
            }
            Code::Done
            | Code::Unfit
            | Code::Usage
            | Code::Data
            | Code::Missing
            | Code::Internal
            | Code::Limit
            | Code::Busy
            | Code::Conflict
            | Code::Denied
            | Code::Interrupted
            | Code::Terminated => "",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tonnage: {}", self.sentence())
    }
}

fn io_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

fn local_code(error: &std::io::Error) -> Code {
    use std::io::ErrorKind;
    if matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    ) {
        return Code::Denied;
    }
    match (error.kind(), Kind::of_io(error)) {
        (_, Kind::NoSpace) => Code::Space,
        (ErrorKind::NotFound, _) => Code::Missing,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tonnage_cache::error::{IoContext, PathError};

    #[test]
    fn every_kind_has_a_code_and_every_code_is_in_the_help() {
        for kind in Kind::ALL {
            let number = Code::from(kind).number();
            assert!(number >= 64, "{kind:?}");
            assert!(
                CODES.contains(&format!("\n  {number}  ")),
                "{kind:?}: {number}"
            );
        }
        let numbers: std::collections::BTreeSet<u8> =
            Kind::ALL.map(|kind| Code::from(kind).number()).into();
        assert_eq!(numbers.len(), Kind::ALL.len(), "two kinds share a code");
    }

    #[test]
    fn a_stopped_command_says_how_to_go_on() {
        let failure = Failure::stopped(Code::Interrupted).or_stopped(Code::Terminated);
        assert_eq!(failure.code.number(), 143);
        assert_eq!(
            failure.to_string(),
            "tonnage: stopped; run the same command to resume"
        );
        let other = Failure::new(Code::Space, "a", "b");
        assert_eq!(other.clone().or_stopped(Code::Interrupted), other);
    }

    #[test]
    fn a_failure_is_one_sentence_with_its_causes_once() {
        let refused: Result<(), PathError> =
            Err(std::io::Error::from_raw_os_error(13)).at("create", Path::new("/srv/cache"));
        let failure = Failure::of("open the cache", Kind::Internal, &refused.unwrap_err())
            .or_advise("choose another --cache-dir");
        assert_eq!(failure.code, Code::Denied);
        assert_eq!(
            failure.to_string(),
            "tonnage: open the cache: create /srv/cache: Permission denied (os error 13); choose another --cache-dir"
        );
    }
}
