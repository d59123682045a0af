//! Target paths as kubelet sends them, and the kernel's table of what is mounted there.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use proptest::prelude::*;
use tonnage_csi::mount::{Mount, Table};
use tonnage_csi::target::KubeletRoot;

use super::words::{hold, is_sentence, settings, text};

/// A name as `proc_pid_mountinfo(5)` has it.
fn mangled(name: &[u8]) -> Vec<u8> {
    let mut mangled = Vec::new();
    for byte in name {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\') {
            let mut escape = String::new();
            write!(escape, "\\{byte:03o}").unwrap();
            mangled.extend_from_slice(escape.as_bytes());
        } else {
            mangled.push(*byte);
        }
    }
    mangled
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let rest = prop_oneof![
        proptest::collection::vec(1u8.., 0..12),
        "[a\\\\ \t\n0-7/]{0,12}".prop_map(String::into_bytes),
    ];
    rest.prop_map(|rest| [b"/".as_slice(), &rest].concat())
}

#[test]
fn a_target_lies_below_the_root_or_is_refused_in_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let given = directory.path().join("kubelet");
    std::fs::create_dir_all(given.join("pods/a")).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&given, &link).unwrap();
    let root = KubeletRoot::open(&link).unwrap();
    let outside = directory.path().to_path_buf();
    let below = prop_oneof![
        4 => "(/[a-c.]{1,3}){0,4}/?",
        2 => "[a-c./]{0,8}",
        1 => "/[ -~]{0,12}",
        1 => text(),
    ];
    let start = prop_oneof![
        4 => Just(link.clone()),
        4 => Just(root.path().to_path_buf()),
        1 => Just(outside),
        1 => Just(Path::new("/").to_path_buf()),
    ];
    hold(768, &(start, below), |(start, below)| {
        let written = format!("{}{below}", start.display());
        match root.target(&written) {
            Ok(target) => {
                let given = Path::new(&written);
                let relative = given
                    .strip_prefix(&link)
                    .or_else(|_| given.strip_prefix(root.path()));
                prop_assert_eq!(relative.ok(), Some(target.relative()));
                prop_assert!(target.path().starts_with(root.path()));
                prop_assert!(target.path() != root.path());
                let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
                prop_assert!(target.relative().components().all(is_plain));
                prop_assert!(!written.contains("//") && !written.chars().any(char::is_control));
                // By its words it is inside; what the kernel finds there is inside too, or is an error.
                if let Ok(Some(spot)) = root.spot(&target) {
                    prop_assert_eq!(spot.path(), target.path());
                }
            }
            Err(error) => prop_assert!(is_sentence(&error.to_string()), "{}", error),
        }
        Ok(())
    });
}

proptest! {
    #![proptest_config(settings(512))]

    #[test]
    fn a_mount_of_any_name_is_read_as_it_is(point in name(), root in name(), is_shared: bool) {
        let shared = if is_shared { "shared:7 " } else { "" };
        let line = [
            b"36 22 98:0 ".as_slice(),
            &mangled(&root),
            b" ",
            &mangled(&point),
            b" ro,nosuid ",
            shared.as_bytes(),
            b"- xfs /dev/root rw\n",
        ]
        .concat();
        let table = Table::parse(&line);
        let Ok(table) = table else {
            return Err(TestCaseError::fail(format!("{:?}", String::from_utf8_lossy(&line))));
        };
        let found: Vec<&Mount> = table.at(Path::new(OsStr::from_bytes(&point))).collect();
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(found[0].root.as_os_str().as_bytes(), root.as_slice());
        prop_assert_eq!(found[0].shared, is_shared);
        prop_assert!(found[0].has_options(&["ro", "nosuid"]));
    }

    #[test]
    fn any_bytes_are_a_table_or_a_line_that_is_named(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            "([0-9:/a-z\\\\-]{0,4} ){0,10}[\n-z]{0,3}".prop_map(String::into_bytes),
        ],
    ) {
        match Table::parse(&bytes) {
            Ok(table) => {
                let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                prop_assert_eq!(table.mounts().len(), lines.count());
            }
            Err(error) => prop_assert!(is_sentence(&error.to_string()), "{}", error),
        }
    }
}

#[test]
fn a_target_with_a_control_character_beyond_ascii_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = KubeletRoot::open(directory.path()).unwrap();
    let target = format!("{}/\u{9b}2J", directory.path().display());
    let sentence = root.target(&target).unwrap_err().to_string();
    assert!(is_sentence(&sentence), "{sentence}");
}
