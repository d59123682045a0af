//! What tests, the demo and the benches stand on: generated content with digests of its own, an S3 server
//! that counts and lies on demand, and a TCP proxy that misbehaves.
//!
//! Nothing here is linked into the product. Every oracle is independent of the code it judges: bytes and
//! digests come from the generator, wire counts from the server.

pub mod demo;
pub mod generate;
pub mod kubelet;
pub mod namespace;
pub mod node;
pub mod oracle;
mod pace;
pub mod s3;
pub mod scratch;
pub mod signals;
pub mod tcp_proxy;
pub mod world;
