//! Measures Tonnage beside its peers and beside the machine's limits.
//!
//! [`server`] is an S3 server that costs as little as one can: it hands file pages to sockets with `sendfile`, so that
//! what is measured is the client. [`limits`] is what this machine allows: bytes received and thrown away, bytes
//! written past the page cache, bytes hashed. The suites that use them are in `harness/`; `run` starts everything.
//! Nothing here is part of the product.

pub mod experiment;
pub mod heat;
pub mod kubelet;
pub mod limits;
pub mod read;
pub mod server;
