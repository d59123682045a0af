//! May these bytes leave this host? Every connection, redirect and run of parts asks the gate first.
//! This module owns the question and an open default; policies and budgets answer it elsewhere.
//!
//! Listings, proofs of access and exchanges for keys ask for their connections and redirects, and not for their bytes: they are how it is
//! found out that content is here already, and such content is shown whatever budgets have left. How long they may become is
//! limited by their sources.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::Kind;

pub mod address;

/// Why bytes of content are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Bytes of content, asked for the first time.
    Content,
    /// Bytes asked for again after a failure.
    Retry,
    /// A second request for bytes that another request is slow to bring.
    Hedge,
}

/// A connection that is about to be made: after name resolution, before connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Name of the source on whose behalf.
    pub source: String,
    /// The host as it was written.
    pub host: String,
    /// The address that will be connected to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// A redirect that is about to be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirection<'a> {
    /// Name of the source that was asked.
    pub source: &'a str,
    /// The host that it sends to, as the URL writes it.
    pub host: &'a str,
    /// Which load asked: what one may reach is not open to another. Empty where nobody governs.
    pub load: &'a str,
}

/// Bytes that are about to be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Name of the source.
    pub source: String,
    /// Who pays: a namespace, or empty on the command line.
    pub payer: String,
    /// Which load asks, by which the gate knows on whose behalf; empty where nobody governs.
    pub load: String,
    /// Object key.
    pub key: String,
    /// How many bytes.
    pub bytes: u64,
    /// Why.
    pub purpose: Purpose,
}

/// The gate's no.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// A rule forbids it.
    #[error("{0}")]
    Denied(String),
    /// A budget is used up.
    #[error("{0}")]
    Exhausted(String),
}

impl Refusal {
    /// Denied or exhausted.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Denied(_) => Kind::Denied,
            Self::Exhausted(_) => Kind::Exhausted,
        }
    }
}

/// Permission for one run, charged in full when it is given; must be settled when the response has ended, or when it turns out that
/// nothing is asked for.
pub trait Permit: fmt::Debug + Send {
    /// The request goes out now, maybe long after permission was given. False if it does not hold any more: then nothing may be
    /// asked for by it, and the gate must be asked again.
    fn begin(&mut self) -> bool;

    /// Reports how many body bytes came. `answered` says whether any response header came. Bytes are given
    /// back only if none came or the response completed short of the grant.
    fn settle(self: Box<Self>, received: u64, answered: bool);
}

/// Decides on connections and bytes.
pub trait Gate: fmt::Debug + Send + Sync {
    /// May this address be connected to?
    fn connect(&self, connection: &Connection) -> Result<(), Refusal>;

    /// May this redirect be followed?
    fn redirect(&self, redirection: &Redirection<'_>) -> Result<(), Refusal>;

    /// May these bytes be asked for? Waits while rate limits say so.
    fn admit<'a>(&'a self, demand: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>>;
}

/// Lets everything through.
#[derive(Debug, Default, Clone, Copy)]
pub struct OpenGate;

impl OpenGate {
    /// The open gate, shared.
    pub fn shared() -> Arc<dyn Gate> {
        Arc::new(Self)
    }
}

#[derive(Debug)]
struct OpenPermit;

impl Permit for OpenPermit {
    fn begin(&mut self) -> bool {
        true
    }

    fn settle(self: Box<Self>, _received: u64, _answered: bool) {}
}

impl Gate for OpenGate {
    fn connect(&self, _connection: &Connection) -> Result<(), Refusal> {
        Ok(())
    }

    fn redirect(&self, _redirection: &Redirection<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit<'a>(&'a self, _demand: &'a Demand) -> BoxFuture<'a, Result<Box<dyn Permit>, Refusal>> {
        Box::pin(std::future::ready(Ok(
            Box::new(OpenPermit) as Box<dyn Permit>
        )))
    }
}
