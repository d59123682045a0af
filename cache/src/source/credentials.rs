//! Keys that requests are signed with. They come from named files, which are read again when they change, from
//! the caller, or from an exchange that the configuration describes; never from an environment or a shared configuration
//! file.
//! Nothing here shows a secret: `Debug` is redacted, errors name files.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;
use super::config::{Auth, SourceConfig};
use super::exchange::Leased;
use crate::error::IoContext;
use crate::gate::Gate;

/// Longest file of credentials.
const FILE_MAX: u64 = 64 << 10;

/// A set of keys; which parts are used depends on the store (see [`SourceConfig`]).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// Access key id.
    pub id: String,
    /// Secret or account key.
    pub secret: String,
    /// Session, OAuth or SAS token.
    pub token: Option<String>,
}

impl Keys {
    /// An access token alone.
    pub fn bearer(token: String) -> Self {
        Self {
            token: Some(token),
            ..Self::default()
        }
    }

    /// Only printable ASCII may go into a header.
    pub(super) fn check(self, subject: &str) -> Result<Self, Error> {
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if plain(&self.id) && plain(&self.secret) && self.token.as_deref().is_none_or(plain) {
            return Ok(self);
        }
        Err(Error::Unauthenticated {
            subject: subject.to_owned(),
            code: "the keys hold a character that keys cannot have".to_owned(),
        })
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(redacted)")
    }
}

/// Where the keys of one source come from.
#[derive(Debug)]
pub(super) enum Credentials {
    /// Requests are not signed.
    Anonymous,
    /// Keys for the life of the process.
    Fixed(Keys),
    /// Keys in files.
    Files(Files),
    /// Keys for an identity, for a while.
    Leased(Box<Leased>),
}

/// Keys in files, with the last reading.
#[derive(Debug)]
pub(super) struct Files {
    subject: String,
    paths: Paths,
    read: Mutex<Option<(Vec<Stamp>, Keys)>>,
}

#[derive(Debug)]
enum Paths {
    /// The AWS credentials format.
    Combined(PathBuf),
    /// One value per file.
    Single {
        id: Option<PathBuf>,
        secret: Option<PathBuf>,
        token: Option<PathBuf>,
    },
}

/// Tells one reading of a file from the next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).at("open credentials", path)?;
        Ok(Self::from(&metadata))
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Credentials {
    /// Chooses by the configuration; a choice without keys is refused.
    pub(super) fn from_config(config: &SourceConfig, gate: &Arc<dyn Gate>) -> Result<Self, Error> {
        let subject = config.label();
        match config.auth {
            Auth::Anonymous => Ok(Self::Anonymous),
            Auth::Env => match &config.inline {
                Some(keys) => Ok(Self::Fixed(keys.clone().check(&subject)?)),
                None => Err(Error::Unauthenticated {
                    subject,
                    code: "the environment holds no keys".to_owned(),
                }),
            },
            Auth::Files => {
                let paths = match &config.credentials_file {
                    Some(path) => Paths::Combined(path.clone()),
                    None => Paths::Single {
                        id: config.access_key_file.clone(),
                        secret: config.secret_key_file.clone(),
                        token: config.session_token_file.clone(),
                    },
                };
                if paths.all().is_empty() {
                    return Err(Error::Reference(format!(
                        "source {subject} has auth = \"files\" but names no file of keys"
                    )));
                }
                Ok(Self::Files(Files {
                    subject,
                    paths,
                    read: Mutex::new(None),
                }))
            }
            Auth::Exchange => match &config.exchange {
                Some(exchange) => {
                    let leased = Leased::new(config, exchange, Arc::clone(gate))?;
                    Ok(Self::Leased(Box::new(leased)))
                }
                None => Err(Error::Reference(format!(
                    "source {subject} has auth = \"exchange\", which only a Source of a cluster can have"
                ))),
            },
        }
    }

    /// The keys of now; `None` if requests are not signed.
    pub(super) async fn current(&self) -> Result<Option<Keys>, Error> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Fixed(keys) => Ok(Some(keys.clone())),
            Self::Files(files) => files.current().map(Some),
            Self::Leased(leased) => leased.current().await.map(Some),
        }
    }

    /// The keys to try in place of those that the store has just refused; the same if there are no others.
    pub(super) async fn instead_of(&self, refused: Option<&Keys>) -> Result<Option<Keys>, Error> {
        match (self, refused) {
            (Self::Leased(leased), Some(refused)) => leased.instead_of(refused).await.map(Some),
            (
                Self::Anonymous | Self::Fixed(_) | Self::Files(_) | Self::Leased(_),
                Some(_) | None,
            ) => self.current().await,
        }
    }
}

impl Files {
    fn current(&self) -> Result<Keys, Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stamps = self.paths.stamps()?;
        if let Some((seen, keys)) = &*read
            && *seen == stamps
        {
            return Ok(keys.clone());
        }
        // Files are replaced one after the other: read until nothing changed meanwhile.
        for _ in 0..8 {
            let keys = self.paths.read()?.check(&self.subject)?;
            let after = self.paths.stamps()?;
            if after == stamps {
                *read = Some((stamps, keys.clone()));
                return Ok(keys);
            }
            stamps = after;
        }
        Err(Error::Unavailable {
            subject: self.subject.clone(),
            what: "the files of keys keep changing".to_owned(),
        })
    }
}

impl Paths {
    fn all(&self) -> Vec<&Path> {
        match self {
            Self::Combined(path) => vec![path],
            Self::Single { id, secret, token } => [id, secret, token]
                .into_iter()
                .flatten()
                .map(PathBuf::as_path)
                .collect(),
        }
    }

    fn stamps(&self) -> Result<Vec<Stamp>, Error> {
        self.all().into_iter().map(Stamp::of).collect()
    }

    fn read(&self) -> Result<Keys, Error> {
        match self {
            Self::Combined(path) => parse_combined(&read_text(path)?, path),
            Self::Single { id, secret, token } => {
                let value = |path: &Option<PathBuf>| path.as_deref().map(read_value).transpose();
                Ok(Keys {
                    id: value(id)?.unwrap_or_default(),
                    secret: value(secret)?.unwrap_or_default(),
                    token: value(token)?,
                })
            }
        }
    }
}

pub(super) fn read_text(path: &Path) -> Result<String, Error> {
    use std::io::Read;
    let file = std::fs::File::open(path).at("open credentials", path)?;
    let mut text = String::new();
    file.take(FILE_MAX)
        .read_to_string(&mut text)
        .at("read credentials", path)?;
    Ok(text)
}

fn read_value(path: &Path) -> Result<String, Error> {
    Ok(read_text(path)?.trim().to_owned())
}

fn parse_combined(text: &str, path: &Path) -> Result<Keys, Error> {
    let (mut id, mut secret, mut token) = (None, None, None);
    let mut ours = true;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            ours = section.trim_end_matches(']').trim() == "default";
        } else if let Some((name, value)) = line.split_once('=').filter(|_| ours) {
            let value = Some(value.trim().to_owned());
            match name.trim() {
                "aws_access_key_id" => id = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Keys { id, secret, token }),
        _ => Err(Error::Unauthenticated {
            subject: path.display().to_string(),
            code: "no aws_access_key_id and aws_secret_access_key in section [default]".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::OpenGate;

    fn files(directory: &Path) -> Credentials {
        Credentials::from_config(
            &SourceConfig {
                name: "m".to_owned(),
                auth: Auth::Files,
                access_key_file: Some(directory.join("id")),
                secret_key_file: Some(directory.join("secret")),
                ..SourceConfig::default()
            },
            &OpenGate::shared(),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn changed_files_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("id", "one\n");
        write("secret", "canary-1\n");
        let credentials = files(directory.path());
        let secret = async || credentials.current().await.unwrap().unwrap().secret;
        assert_eq!(secret().await, "canary-1");
        write("secret", "canary-22\n");
        assert_eq!(secret().await, "canary-22");
        assert!(!format!("{credentials:?}").contains("canary"));
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = files(directory.path()).current().await.unwrap_err();
        assert!(crate::error::chain(&error).contains("id"), "{error}");
    }

    #[test]
    fn keys_that_cannot_go_into_a_header_are_refused_unshown() {
        let keys = Keys::bearer("canary\nX: y".to_owned());
        let error = keys.check("m").unwrap_err();
        assert!(!error.to_string().contains("canary"));
    }

    #[test]
    fn the_combined_format_gives_the_default_section() {
        let text = "[other]\naws_access_key_id=x\n[default]\naws_access_key_id = a\naws_secret_access_key=b\n\
                    aws_session_token=c==\n";
        let keys = parse_combined(text, Path::new("f")).unwrap();
        assert_eq!(
            (
                keys.id.as_str(),
                keys.secret.as_str(),
                keys.token.as_deref()
            ),
            ("a", "b", Some("c=="))
        );
        assert!(parse_combined("[default]\n", Path::new("f")).is_err());
    }
}
