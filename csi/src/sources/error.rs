//! What is wrong with a source or its name.

use tonnage_cache::error::Kind;
use tonnage_cache::path::Escaped;
use tonnage_cache::source;

/// What is wrong with a source or its name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name.
    #[error("no source is called {} ({hint})", Escaped(name))]
    Unknown {
        /// What was asked for.
        name: String,
        /// Which there are, or how to find out.
        hint: String,
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
    /// It is there, but somebody must mend it.
    #[error("source {} cannot be used: {why}", Escaped(name))]
    Unusable {
        /// Which.
        name: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The request lacks the keys that it takes.
    #[error(
        "source {} takes the pod's own keys, and the request brings none: name a Secret with {wanted} in the volume's nodePublishSecretRef",
        Escaped(name)
    )]
    Keys {
        /// Which.
        name: String,
        /// Names of the keys.
        wanted: &'static str,
    },
    /// It is read as a pod's service account, and here is none.
    #[error("source {} is read with the identity of each pod's service account", Escaped(.0))]
    Nobody(String),
    /// The request lacks the token that the cloud wants.
    #[error(
        "source {} is read with the identity of the pod's service account: {why}",
        Escaped(name)
    )]
    Token {
        /// Which.
        name: String,
        /// What is missing and what to do.
        why: String,
    },
    /// It is of the configuration, so that nothing says who may use it.
    #[error("source {} is not a Source of the API server", Escaped(.0))]
    NoObject(String),
    /// Nothing is known yet.
    #[error("sources are being read from the API server; this is tried again by itself")]
    Unread,
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. } => Kind::NotFound,
            Self::Twice(_) | Self::NoObject(_) => Kind::Invalid,
            Self::Config { source, .. } => source.kind(),
            Self::Keys { .. } | Self::Nobody(_) | Self::Token { .. } => Kind::Unauthenticated,
            Self::Unusable { .. } | Self::Unread => Kind::Transient,
        }
    }
}
