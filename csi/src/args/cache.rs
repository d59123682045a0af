//! Arguments of the commands that look after the cache: ls, du, gc, verify, pin, unpin, loads, export, import;
//! and doctor.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use tonnage_cache::digest::Digest;

use super::place::{Place, Root, Sources};
use tonnage_csi::size::ByteSize;

/// `tonnage cache …`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Cache {
    /// List what is stored: digest, files, size, who keeps it
    Ls(Listed),
    /// Sum up the space that is used, by what it is used for
    Du(Used),
    /// Delete what nobody keeps, oldest first
    Gc(Gc),
    /// Read stored content again and compare it with its digests
    Verify(Verify),
    /// Keep content from eviction under a name
    Pin(Pin),
    /// Let pinned content go
    Unpin(Unpin),
}

/// `tonnage cache ls`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "Example:\n  tonnage cache ls --json | jq -r '.[].digest'")]
pub(crate) struct Listed {
    #[command(flatten)]
    pub(crate) root: Root,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage cache du`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "Example:\n  tonnage cache du --cache-dir /mnt/nvme/tonnage")]
pub(crate) struct Used {
    #[command(flatten)]
    pub(crate) root: Root,
    /// Print JSON, in bytes
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage cache gc`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage cache gc                    what has expired
  tonnage cache gc --free 100GiB      until that much was freed
  tonnage cache gc --all              everything that nobody keeps

A cache keeps its own limits while it loads; this is for more than that. Published volumes, mounts, pins and running \
loads are never touched. Where a node service owns the cache, it does the work.")]
pub(crate) struct Gc {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Delete until this much was freed
    #[arg(long, value_name = "SIZE", conflicts_with = "all")]
    pub(crate) free: Option<ByteSize>,
    /// Delete everything that nobody keeps
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage cache verify`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage cache verify                       everything
  tonnage cache verify --rate 200MB          at most that much per second

A damaged object is moved to quarantine and fetched again by the next load that needs it. Ends with 65 if anything was \
damaged.")]
pub(crate) struct Verify {
    /// Only the object with this digest
    #[arg(value_name = "HEX")]
    pub(crate) digest: Option<Digest>,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Read at most this much per second
    #[arg(long, value_name = "SIZE")]
    pub(crate) rate: Option<ByteSize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage cache pin`.
#[derive(Debug, Clone, ClapArgs)]
#[command(
    after_help = "Example:\n  tonnage cache pin base-model 3f2a91c0     (digests are in `tonnage cache ls`)"
)]
pub(crate) struct Pin {
    /// Name of the pin
    pub(crate) name: String,
    /// Manifest digest of the content, or its first 6 digits or more
    #[arg(value_name = "HEX")]
    pub(crate) digest: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `tonnage cache unpin`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "Example:\n  tonnage cache unpin base-model")]
pub(crate) struct Unpin {
    /// Name of the pin
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `tonnage loads`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "Example:\n  tonnage loads --last 1")]
pub(crate) struct Loads {
    #[command(flatten)]
    pub(crate) root: Root,
    /// How many, newest first
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) last: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage doctor`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage doctor --cache-dir /mnt/nvme/tonnage
  tonnage doctor --sources sources.toml --kubelet-dir /var/lib/kubelet --json

Each check is one line: ok, warn or FAIL, and what to do. Ends with 1 if a check fails. What it writes to try the file \
system is removed again.")]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) root: Root,
    #[command(flatten)]
    pub(crate) sources: Sources,
    /// Directory of kubelet, checked if it exists
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/kubelet",
        env = "TONNAGE_KUBELET_DIR"
    )]
    pub(crate) kubelet_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage export`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  tonnage export 3f2a91c0 /media/usb/llama
  tonnage import /media/usb/llama                (behind the air gap)

A bundle is a plain directory: copy it, tar it, or bake it into a node image and name it with --seed.")]
pub(crate) struct Export {
    /// Manifest digest of the content, as `cache ls` and `pull --json` print it, or its first 6 digits or more
    #[arg(value_name = "HEX")]
    pub(crate) digest: String,
    /// Directory of the bundle; made if its parent exists; several exports may share one
    pub(crate) bundle: PathBuf,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tonnage import`.
#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Example:
  tonnage import /media/usb/llama --pin llama

Every byte is verified on its way in. Prints the path of the view of each content. A pull or a pod that pins the \
bundle's revision is then served without the network.")]
pub(crate) struct Import {
    /// Directory that `tonnage export` wrote
    pub(crate) bundle: PathBuf,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Keep the content from eviction under this name
    #[arg(long, value_name = "NAME")]
    pub(crate) pin: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
