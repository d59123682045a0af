//! The words of a publish request, parsed once: volume ids, the attributes that a user may write, what kubelet
//! adds to them, access modes and mount flags. Everything below this file works with these types; nothing
//! here touches a disk or knows gRPC.
//!
//! Keys below `csi.storage.k8s.io/` and `storage.kubernetes.io/` belong to Kubernetes: known ones are read, the
//! rest is ignored. Any other key that is not listed in [`Attributes`] is refused by name.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tonnage_cache::digest::{self, Digest};
use tonnage_cache::error::Kind;
use tonnage_cache::fetch::PageCache;
use tonnage_cache::path::{Escaped, RelPath};

/// Longest volume id in bytes (CSI, "Size Limits").
pub const VOLUME_ID_MAX: usize = 128;
const RESERVED: [&str; 2] = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];

/// A volume id: any text of 1 to 128 bytes. A static volume's is the admin's choice, so it never becomes a
/// path: files are named by [`VolumeId::file_name`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeId(Box<str>);

impl VolumeId {
    /// Checks the length.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text.len() {
            0 => Err(Error::Missing("volume_id")),
            length if length > VOLUME_ID_MAX => Err(Error::LongVolumeId { length }),
            _ => Ok(Self(text.into())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// 64 hexadecimal digits that stand for the id in file names.
    pub fn file_name(&self) -> String {
        Digest::of(self.0.as_bytes()).to_hex()
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(&self.0).fmt(f)
    }
}

/// What a user asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `source`: name of a configured source; required.
    pub source: String,
    /// `path`: relative path at the source; empty for all of it.
    pub path: String,
    /// `include`: globs, separated by commas or white space.
    pub include: Vec<String>,
    /// `exclude`: globs, separated by commas or white space.
    pub exclude: Vec<String>,
    /// `revision`: only this listing will do.
    pub revision: Option<Digest>,
    /// `digest`: only this content will do.
    pub digest: Option<Digest>,
    /// `pageCache`: `direct`, `warm` or `auto`.
    pub page_cache: PageCache,
    /// `retain`: keep the content after the volume's release.
    pub retain: bool,
    /// `limitBytes`: refuse a larger revision; set by `CreateVolume` from the claim's size.
    pub limit_bytes: Option<u64>,
}

/// What kubelet says about the pod (`podInfoOnMount`); never an identity by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodInfo {
    /// `csi.storage.k8s.io/pod.name`.
    pub name: String,
    /// `csi.storage.k8s.io/pod.namespace`.
    pub namespace: String,
    /// `csi.storage.k8s.io/pod.uid`.
    pub uid: String,
    /// `csi.storage.k8s.io/serviceAccount.name`.
    pub service_account: String,
}

/// A volume context, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeContext {
    /// The user's part.
    pub attributes: Attributes,
    /// Kubelet's part, if it sent any.
    pub pod: Option<PodInfo>,
    /// Whether the volume is inline in a pod's specification.
    pub ephemeral: bool,
}

impl VolumeContext {
    /// Parses the map of a request. Unknown keys are refused by name.
    pub fn parse(map: &HashMap<String, String>) -> Result<Self, Error> {
        let get = |key: &str| map.get(&format!("csi.storage.k8s.io/{key}")).cloned();
        let pod = get("pod.name").map(|name| PodInfo {
            name,
            namespace: get("pod.namespace").unwrap_or_default(),
            uid: get("pod.uid").unwrap_or_default(),
            service_account: get("serviceAccount.name").unwrap_or_default(),
        });
        Ok(Self {
            attributes: Attributes::parse(map)?,
            pod,
            ephemeral: get("ephemeral").as_deref() == Some("true"),
        })
    }
}

impl Attributes {
    /// Parses the user's keys of a volume context or of a storage class's parameters.
    pub fn parse(map: &HashMap<String, String>) -> Result<Self, Error> {
        let mut found = Self::default();
        let mut keys: Vec<(&String, &String)> = map
            .iter()
            .filter(|(key, _)| !RESERVED.iter().any(|prefix| key.starts_with(prefix)))
            .collect();
        keys.sort();
        for (key, value) in keys {
            found.set(key, value)?;
        }
        if found.source.is_empty() {
            return Err(Error::Missing("source"));
        }
        Ok(found)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let bad = |why: String| Error::Attribute {
            key: key.to_owned(),
            value: value.to_owned(),
            why,
        };
        let digest = |value: &str| {
            value
                .parse()
                .map_err(|error: digest::ParseError| bad(error.to_string()))
        };
        match key {
            "source" => value.clone_into(&mut self.source),
            "path" => {
                self.path = parse_path(value).map_err(|error| bad(error.reason.to_string()))?;
            }
            "include" => self.include = split(value),
            "exclude" => self.exclude = split(value),
            "revision" => self.revision = Some(digest(value)?),
            "digest" => self.digest = Some(digest(value)?),
            "pageCache" => {
                self.page_cache = match value {
                    "direct" => PageCache::Direct,
                    "warm" => PageCache::Warm,
                    "auto" => PageCache::Auto,
                    _ => return Err(bad("is not one of direct, warm, auto".to_owned())),
                }
            }
            "retain" => {
                self.retain = value
                    .parse()
                    .map_err(|_| bad("is not true or false".to_owned()))?;
            }
            "limitBytes" => {
                let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
                let bytes = value.parse().ok().filter(|_| is_plain);
                let bytes = bytes.ok_or_else(|| bad("is not a number of bytes".to_owned()))?;
                self.limit_bytes = Some(bytes);
            }
            _ => {
                return Err(Error::UnknownAttribute {
                    key: key.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The map that parses to these attributes; defaults are left out.
    pub fn to_map(&self) -> HashMap<String, String> {
        let mut map = HashMap::from([("source".to_owned(), self.source.clone())]);
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                map.insert(key.to_owned(), value);
            }
        };
        // A comma would not divide them where one has a brace that is open.
        let list = |globs: &[String]| (!globs.is_empty()).then(|| globs.join(" "));
        put("path", (!self.path.is_empty()).then(|| self.path.clone()));
        put("include", list(&self.include));
        put("exclude", list(&self.exclude));
        put("revision", self.revision.map(|it| it.to_hex()));
        put("digest", self.digest.map(|it| it.to_hex()));
        put(
            "pageCache",
            match self.page_cache {
                PageCache::Direct => Some("direct".to_owned()),
                PageCache::Warm => Some("warm".to_owned()),
                PageCache::Auto => None,
            },
        );
        put("retain", self.retain.then(|| "true".to_owned()));
        put("limitBytes", self.limit_bytes.map(|it| it.to_string()));
        map
    }
}

/// One trailing slash is the user's way of saying "directory".
fn parse_path(value: &str) -> Result<String, tonnage_cache::path::Error> {
    let trimmed = value.strip_suffix('/').unwrap_or(value);
    if trimmed.is_empty() && value.len() <= 1 && value != "/" {
        return Ok(String::new());
    }
    RelPath::parse(if value == "/" { value } else { trimmed }).map(|path| path.as_str().to_owned())
}

/// Splits at white space and at commas outside braces.
fn split(value: &str) -> Vec<String> {
    let mut depth = 0u32;
    value
        .split(|character: char| {
            match character {
                '{' => depth = depth.saturating_add(1),
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            character.is_whitespace() || (character == ',' && depth == 0)
        })
        .filter(|glob| !glob.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Who may use the volume at once (CSI `AccessMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// One target on one node.
    SingleWriter,
    /// Any number of targets.
    Shared,
}

/// Mount flags beyond `ro,nosuid,nodev`, which every volume has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// `noexec`.
    pub noexec: bool,
    /// `noatime`.
    pub noatime: bool,
    /// Nobody owns a file in this mount, so that nobody can write even where `ro` is taken away from a copy of it. Not a
    /// flag of the request: what is not asked for as read-only gets it.
    pub guarded: bool,
}

impl MountFlags {
    /// Parses the flags of a volume capability.
    pub fn parse(flags: &[String]) -> Result<Self, Error> {
        let mut found = Self::default();
        for flag in flags {
            match flag.as_str() {
                "ro" | "nosuid" | "nodev" => {}
                "noexec" => found.noexec = true,
                "noatime" => found.noatime = true,
                other => {
                    return Err(Error::MountFlag {
                        flag: other.to_owned(),
                    });
                }
            }
        }
        Ok(found)
    }
}

/// What makes two publishes of one target the same; tokens and pod information are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishIdentity {
    /// The volume.
    pub volume_id: VolumeId,
    /// `source`.
    pub source: String,
    /// `path`.
    pub path: String,
    /// `include`.
    pub include: Vec<String>,
    /// `exclude`.
    pub exclude: Vec<String>,
    /// `revision`.
    pub revision: Option<Digest>,
    /// `digest`.
    pub digest: Option<Digest>,
    /// Access mode.
    pub access: Access,
    /// `readonly` of the request.
    pub readonly: bool,
}

impl PublishIdentity {
    /// The identity of a publish of `volume_id` with `attributes`.
    pub fn new(
        volume_id: VolumeId,
        attributes: &Attributes,
        access: Access,
        readonly: bool,
    ) -> Self {
        Self {
            volume_id,
            source: attributes.source.clone(),
            path: attributes.path.clone(),
            include: attributes.include.clone(),
            exclude: attributes.exclude.clone(),
            revision: attributes.revision,
            digest: attributes.digest,
            access,
            readonly,
        }
    }
}

/// What is wrong with a request's words; values are shown escaped.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A required field is empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The volume id is too long.
    #[error("volume_id has {length} bytes; at most {VOLUME_ID_MAX} are allowed")]
    LongVolumeId {
        /// Its length in bytes.
        length: usize,
    },
    /// A key that no user may write.
    #[error(
        "attribute {} is unknown; known are source, path, include, exclude, revision, digest, pageCache, retain and limitBytes",
        Escaped(key)
    )]
    UnknownAttribute {
        /// The key.
        key: String,
    },
    /// A value that cannot be understood.
    #[error("attribute {key}={} {why}", Escaped(value))]
    Attribute {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A flag that would change what a volume is.
    #[error(
        "mount flag {} is not allowed; allowed are ro, nosuid, nodev, noexec and noatime",
        Escaped(flag)
    )]
    MountFlag {
        /// The flag.
        flag: String,
    },
    /// A capability that no volume of this driver has.
    #[error("{0}")]
    Capability(&'static str),
}

impl Error {
    /// Always the caller's to change.
    pub const fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn kubernetes_keys_are_read_or_ignored_and_others_refused_by_name() {
        let context = VolumeContext::parse(&map(&[
            ("source", "models"),
            ("path", "llama/"),
            ("csi.storage.k8s.io/pod.name", "p"),
            ("csi.storage.k8s.io/pod.namespace", "n"),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/some.later", "x"),
            ("storage.kubernetes.io/csiProvisionerIdentity", "y"),
        ]))
        .unwrap();
        assert_eq!(context.attributes.path, "llama");
        assert!(context.ephemeral);
        assert_eq!(context.pod.unwrap().namespace, "n");
        let error =
            VolumeContext::parse(&map(&[("source", "m"), ("endpoint\n", "x")])).unwrap_err();
        assert!(error.to_string().contains("\"endpoint\\n\""), "{error}");
        assert_eq!(
            VolumeContext::parse(&map(&[])),
            Err(Error::Missing("source"))
        );
    }

    #[test]
    fn bad_values_are_named_with_their_field_and_escaped() {
        for (key, value) in [
            ("path", "../etc"),
            ("path", "/abs"),
            ("path", "/"),
            ("path", "a//b"),
            ("path", "a\u{1b}[31m"),
            ("revision", "12"),
            ("digest", "sha256:00"),
            ("pageCache", "hot"),
            ("retain", "yes"),
            ("limitBytes", "1Gi"),
            ("limitBytes", "+1"),
        ] {
            let error = Attributes::parse(&map(&[("source", "m"), (key, value)]))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(&format!("attribute {key}=")), "{error}");
            assert!(!error.contains('\u{1b}'));
        }
    }

    #[test]
    fn globs_are_split_at_commas_outside_braces() {
        let attributes = Attributes::parse(&map(&[
            ("source", "m"),
            ("include", "*.{json,txt}, *.bin\n a/**"),
        ]))
        .unwrap();
        assert_eq!(attributes.include, ["*.{json,txt}", "*.bin", "a/**"]);
    }

    #[test]
    fn only_harmless_mount_flags_are_allowed() {
        let flags = |flags: &[&str]| {
            MountFlags::parse(&flags.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert!(flags(&["ro", "noexec"]).unwrap().noexec);
        assert_eq!(
            flags(&["suid"]),
            Err(Error::MountFlag {
                flag: "suid".to_owned()
            })
        );
    }

    #[test]
    fn a_volume_id_of_128_bytes_is_the_longest() {
        assert!(VolumeId::parse(&"x".repeat(128)).is_ok());
        assert_eq!(
            VolumeId::parse(&"x".repeat(129)),
            Err(Error::LongVolumeId { length: 129 })
        );
        assert_eq!(VolumeId::parse("../../etc").unwrap().file_name().len(), 64);
    }

    proptest! {
        #[test]
        fn attributes_survive_the_map(source in "[a-z]{1,8}", path in "([a-z]{1,4}/){0,3}[a-z]{1,4}", glob in "[a-z*]{1,5}", retain: bool, limit: Option<u64>) {
            let attributes = Attributes { source, path, include: vec![glob.clone(), "x".to_owned()], exclude: vec![glob], revision: Some(Digest::of(b"r")), retain, limit_bytes: limit, ..Attributes::default() };
            prop_assert_eq!(Attributes::parse(&attributes.to_map()).unwrap(), attributes);
        }
    }
}
