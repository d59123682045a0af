//! The sources that an admin has named in the configuration; references can use no others.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonnage_cache::error::Kind;
use tonnage_cache::gate::Gate;
use tonnage_cache::path::Escaped;
use tonnage_cache::source::config::{SourceConfig, build};
use tonnage_cache::source::{self, Source};

/// Named sources.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    by_name: BTreeMap<String, Arc<dyn Source>>,
}

/// What is wrong with a source or its name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody has configured it.
    #[error("no source is called {} (this node knows {known})", Escaped(name))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Two have the same name.
    #[error("two sources are called {}", Escaped(.0))]
    Twice(String),
    /// The configuration of one is wrong.
    #[error("source {}", Escaped(name))]
    Config {
        /// Which.
        name: String,
        /// What is wrong.
        source: source::Error,
    },
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. } => Kind::NotFound,
            Self::Twice(_) => Kind::Invalid,
            Self::Config { source, .. } => source.kind(),
        }
    }
}

impl Sources {
    /// Builds every configured source.
    pub fn build(configs: &[SourceConfig], gate: &Arc<dyn Gate>) -> Result<Self, Error> {
        let mut sources = Self::default();
        for config in configs {
            let wrong = |source| Error::Config {
                name: config.name.clone(),
                source,
            };
            let source = build(config, Arc::clone(gate)).map_err(wrong)?;
            sources.add(&config.name, source)?;
        }
        Ok(sources)
    }

    /// Adds a source under a name.
    pub fn add(&mut self, name: &str, source: Arc<dyn Source>) -> Result<(), Error> {
        match self.by_name.insert(name.to_owned(), source) {
            None => Ok(()),
            Some(_) => Err(Error::Twice(name.to_owned())),
        }
    }

    /// The source of a name.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Source>, Error> {
        self.by_name.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
            let known = if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            };
            Error::Unknown {
                name: name.to_owned(),
                known,
            }
        })
    }
}
