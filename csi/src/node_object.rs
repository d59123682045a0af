//! What the objects that a node's driver keeps of its own at the API server have in common: why one is not as it should be, and
//! how nodes are spread in time.

use std::time::Duration;

use tonnage_cache::digest::Digest;
use tonnage_cache::error::chain;
use tonnage_cache::path::Escaped;

/// Why the object is not as it should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The object is not there any more.
    #[error("it was deleted")]
    Gone,
    /// Another writer came between, or made it first.
    #[error("somebody else wrote it at the same time")]
    Conflict,
    /// The node's name is not that of a Node.
    #[error("there is no Node {}: give the driver the node's name in the cluster with --node-id", Escaped(.0))]
    NoNode(String),
    /// The kind, by its plural, is not installed.
    #[error("the API server does not know {0}.tonnage.dev: install Tonnage's custom resources")]
    NoKind(&'static str),
    /// RBAC or an admission policy is against it, or the schema.
    #[error(
        "the API server does not take it ({0}): install the chart's ClusterRole, admission policies and custom resources of this version"
    )]
    Refused(String),
    /// Any other answer.
    #[error("the API server answers {0}")]
    Status(u16),
    /// No answer that can be understood.
    #[error("the API server cannot be reached")]
    Unreachable,
    /// No answer.
    #[error("the API server does not answer")]
    Silent,
}

impl Error {
    /// What a failure of the client means; `absent` is what "not found" does.
    pub fn of(error: kube::Error, absent: Self) -> Self {
        let kube::Error::Api(status) = error else {
            tracing::debug!(error = chain(&error), "the API server failed");
            return Self::Unreachable;
        };
        match status.code {
            404 => absent,
            409 => Self::Conflict,
            400 | 401 | 403 | 422 => Self::Refused(status.message),
            code => Self::Status(code),
        }
    }
}

/// Parts of times that differ from node to node and from round to round.
#[derive(Debug)]
pub struct Jitter {
    node: String,
    rounds: u64,
}

impl Jitter {
    /// Of a node by its name.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            rounds: 0,
        }
    }

    /// From now on the parts are others.
    pub fn next_round(&mut self) {
        self.rounds = self.rounds.wrapping_add(1);
    }

    /// A part of a time, from nothing to all of it.
    pub fn part_of(&self, whole: Duration) -> Duration {
        let digest = Digest::of(format!("{} {}", self.node, self.rounds).as_bytes());
        let byte = digest.as_bytes().first().copied().unwrap_or_default();
        whole * u32::from(byte) / 255
    }
}
