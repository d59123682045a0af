//! Where the cache lies and which sources there are: arguments shared by most commands.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use tonnage_cache::cache::Config as CacheConfig;
use tonnage_cache::source::config::SourceConfig;

use crate::config::{self, Config};
use crate::exit::{Code, Failure};
use tonnage_csi::size::ByteSize;

/// Which directory is the cache's.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Root {
    /// Directory of the cache [default: /var/lib/tonnage as root, otherwise `$XDG_CACHE_HOME/tonnage`]
    #[arg(
        long,
        value_name = "DIR",
        env = "TONNAGE_CACHE_DIR",
        help_heading = "Cache"
    )]
    pub(crate) cache_dir: Option<PathBuf>,
}

/// The cache's directory and limits.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Place {
    #[command(flatten)]
    pub(crate) root: Root,
    /// Most bytes that the cache may use [default: 90 % of the file system]
    #[arg(
        long,
        value_name = "SIZE",
        env = "TONNAGE_CACHE_SIZE",
        help_heading = "Cache"
    )]
    pub(crate) cache_size: Option<ByteSize>,
    /// Bytes of the file system that are left to others
    #[arg(
        long,
        value_name = "SIZE",
        env = "TONNAGE_CACHE_FLOOR",
        help_heading = "Cache"
    )]
    pub(crate) cache_floor: Option<ByteSize>,
    /// Most bytes written to the cache per second, so that others keep their share of the disk [default: no limit]
    #[arg(
        long,
        value_name = "SIZE",
        env = "TONNAGE_WRITE_RATE",
        help_heading = "Cache"
    )]
    pub(crate) write_rate: Option<ByteSize>,
    /// Read-only directory with content to start from: a bundle or another cache; repeatable
    #[arg(
        long = "seed",
        value_name = "DIR",
        env = "TONNAGE_SEEDS",
        value_delimiter = ':',
        help_heading = "Cache"
    )]
    pub(crate) seeds: Vec<PathBuf>,
}

/// Where named sources are written down.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Sources {
    /// File with `[[source]]` tables, beside those of the configuration file
    #[arg(
        long,
        value_name = "FILE",
        env = "TONNAGE_SOURCES",
        help_heading = "Source"
    )]
    pub(crate) sources: Option<PathBuf>,
}

impl Root {
    /// The directory: flag or variable, file, then the default of this user.
    pub(crate) fn directory(self, config: &Config) -> Result<PathBuf, Failure> {
        let Self { cache_dir } = self;
        match cache_dir.or_else(|| config.cache_dir.clone()) {
            Some(directory) => Ok(directory),
            None => usual_directory(rustix::process::geteuid().is_root(), |name| {
                std::env::var_os(name)
            }),
        }
    }
}

fn usual_directory(
    is_root: bool,
    get: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<PathBuf, Failure> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/tonnage"));
    }
    let absolute = |name: &str| {
        get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|base| base.join("tonnage"))
        .ok_or_else(|| {
            Failure::new(
                Code::Usage,
                "choose the cache directory",
                "neither XDG_CACHE_HOME nor HOME is set",
            )
            .or_advise("name one with --cache-dir")
        })
}

impl Place {
    /// What the library needs to open the cache.
    pub(crate) fn cache(self, config: &Config) -> Result<CacheConfig, Failure> {
        let Self {
            root,
            cache_size,
            cache_floor,
            write_rate,
            seeds,
        } = self;
        let mut settings = CacheConfig::new(root.directory(config)?);
        if let Some(ByteSize(bytes)) = cache_size.or(config.cache_size) {
            settings.store.max_bytes = Some(bytes);
        }
        if let Some(ByteSize(bytes)) = cache_floor.or(config.cache_floor) {
            settings.store.floor_bytes = bytes;
        }
        if let Some(ByteSize(rate)) = write_rate.or(config.write_rate) {
            settings.fetch.write_rate = Some(rate);
        }
        settings.store.seeds = if seeds.is_empty() {
            config.seeds.clone()
        } else {
            seeds
        };
        Ok(settings)
    }
}

impl Sources {
    /// All named sources, each name once.
    pub(crate) fn all(self, config: &Config) -> Result<Vec<SourceConfig>, Failure> {
        let Self { sources } = self;
        let mut all = config.source.clone();
        if let Some(file) = sources {
            all.extend(config::load_sources(&file)?);
        }
        config::check_names(&all)?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_directory_depends_on_who_asks() {
        let home = |name: &str| (name == "HOME").then(|| "/home/ann".into());
        assert_eq!(
            usual_directory(true, home).unwrap(),
            PathBuf::from("/var/lib/tonnage")
        );
        assert_eq!(
            usual_directory(false, home).unwrap(),
            PathBuf::from("/home/ann/.cache/tonnage")
        );
        let xdg = |name: &str| Some(if name == "HOME" { "/home/ann" } else { "/fast" }.into());
        assert_eq!(
            usual_directory(false, xdg).unwrap(),
            PathBuf::from("/fast/tonnage")
        );
        assert_eq!(
            usual_directory(false, |_| None).unwrap_err().code,
            Code::Usage
        );
    }

    #[test]
    fn flags_win_over_the_file() {
        let config = Config {
            cache_dir: Some("/file".into()),
            cache_size: Some(ByteSize(1)),
            write_rate: Some(ByteSize(7)),
            seeds: vec!["/seed".into()],
            ..Config::default()
        };
        let place = Place {
            root: Root {
                cache_dir: Some("/flag".into()),
            },
            cache_size: None,
            cache_floor: Some(ByteSize(9)),
            write_rate: None,
            seeds: Vec::new(),
        };
        let settings = place.cache(&config).unwrap();
        assert_eq!(settings.store.root, PathBuf::from("/flag"));
        assert_eq!(settings.store.max_bytes, Some(1));
        assert_eq!(settings.store.floor_bytes, 9);
        assert_eq!(settings.fetch.write_rate, Some(7));
        assert_eq!(settings.store.seeds, [PathBuf::from("/seed")]);
    }
}
