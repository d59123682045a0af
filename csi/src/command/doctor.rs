//! `tonnage doctor`: is this machine fit? Every check is one line with a verdict and, where it is not "ok",
//! what to do. Checks look at facts of the kernel and try the file system in a directory that is removed
//! again; they never open the cache, so they also run beside a node service.

use std::fmt;

use crate::args::cache::Doctor;
use crate::config::Config;
use crate::console::Console;
use crate::exit::{Code, Failure};

mod disk;
mod machine;
mod reach;

pub(super) use machine::may_mount;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// One line of the examination.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct Check {
    name: String,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warn(name: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            advice: Some(advice.into()),
            ..Self::ok(name, found)
        }
    }

    fn fail(name: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(name, found, advice)
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<4}  {:<18} {}", self.verdict, self.name, self.found)?;
        match &self.advice {
            Some(advice) => write!(f, ": {advice}"),
            None => Ok(()),
        }
    }
}

/// Runs every check and shows it as it ends.
pub(crate) async fn run(args: Doctor, config: &Config, console: &Console) -> Result<Code, Failure> {
    let Doctor {
        root,
        sources,
        kubelet_dir,
        json,
    } = args;
    let directory = root.directory(config)?;
    let sources = sources.all(config)?;
    let mut checks = machine::examine(&kubelet_dir);
    checks.extend(disk::examine(&directory));
    for source in &sources {
        checks.push(reach::examine(source).await);
    }
    if json {
        console.json(&checks)?;
    } else {
        for check in &checks {
            console.result(check)?;
        }
    }
    let worst = checks.iter().map(|check| check.verdict).max();
    Ok(if worst == Some(Verdict::Fail) {
        Code::Unfit
    } else {
        Code::Done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_one_line_with_its_advice() {
        let check = Check::fail("kernel", "Linux 5.4", "needs 5.15 or later");
        assert_eq!(
            check.to_string(),
            "FAIL  kernel             Linux 5.4: needs 5.15 or later"
        );
        assert!(Verdict::Fail > Verdict::Warn && Verdict::Warn > Verdict::Ok);
    }
}
