//! The shape of the code, held by a test: the table of ranks below is the architecture, and the sources are
//! read against it. Imports point strictly down; a module that the table does not know must be given a place.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of each crate by rank; a module may import modules of lower ranks only.
const CACHE: &[&[&str]] = &[
    &["error", "digest", "path", "clock", "buffer"],
    &["disk", "gate", "journal", "manifest", "report"],
    &["source", "store"],
    &["fetch", "view"],
    &["cache"],
];
const CSI: &[&[&str]] = &[
    &["volume", "target", "size", "exit", "failpoints", "crd"],
    &[
        "identity",
        "mount",
        "loads",
        "record",
        "inflight",
        "volumes",
        "console",
        "pin",
        "bundle",
        "claims",
        "leader",
        "egress",
        "node_object",
        "watching",
    ],
    &[
        "policy", "sources", "status", "upkeep", "progress", "events", "config",
    ],
    &["grant", "control", "govern"],
    &["access", "node_cache"],
    &["publish", "provision", "reconcile"],
    &["service"],
    &["server", "registration"],
    &["metrics", "trace", "log"],
    &["run"],
    &["args"],
    &["command"],
    &["main"],
];

const CRATES: &[(&str, &[&[&str]])] = &[("cache", CACHE), ("csi", CSI)];
const MOST_LINES: usize = 400;
/// Files that are too long and wait to be taken apart; none may join them.
const TOO_LONG: &[&str] = &["e2e/src/kubelet.rs"];
const HOMELESS: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "manager", "handler", "base",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

fn sources_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources_below(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module's path below the crate: `store/write.rs` is `["store", "write"]`.
fn module_of(source: &Path, root: &Path) -> Vec<String> {
    let relative = source.strip_prefix(root).unwrap().with_extension("");
    relative
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect()
}

/// The text without its tests and without lines of comment.
fn code_of(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end]
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The first names after each `prefix`: one, or those of a group in braces.
fn names_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let identifier = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0usize;
            let mut start = true;
            for (offset, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => start = true,
                    c if start && !c.is_whitespace() => {
                        names.insert(identifier(&group[offset..]));
                        start = false;
                    }
                    _ => {}
                }
            }
        } else {
            names.insert(identifier(rest));
        }
    }
    names.retain(|name| name.chars().next().is_some_and(char::is_lowercase));
    names
}

/// Modules of the same crate that the code names.
fn imports(code: &str, module: &[String], library: &str) -> BTreeSet<String> {
    let mut names = names_after(code, "crate::");
    names.extend(names_after(code, &format!("{library}::")));
    let up = "super::".repeat(module.len());
    names.extend(names_after(code, &up));
    names
}

fn complaints_of(directory: &str, table: &[&[&str]]) -> Vec<String> {
    let rank: BTreeMap<&str, usize> = table
        .iter()
        .enumerate()
        .flat_map(|(rank, names)| names.iter().map(move |name| (*name, rank)))
        .collect();
    let root = workspace().join(directory).join("src");
    let mut complaints = Vec::new();
    for source in sources_below(&root) {
        let module = module_of(&source, &root);
        let top = module[0].as_str();
        if top == "lib" {
            continue;
        }
        let Some(own) = rank.get(top) else {
            complaints.push(format!(
                "{directory}: give {top} a place in the table of ranks"
            ));
            continue;
        };
        let text = std::fs::read_to_string(&source).unwrap();
        for name in imports(&code_of(&text), &module, &format!("tonnage_{directory}")) {
            match rank.get(name.as_str()) {
                Some(other) if other < own || name == top => {}
                Some(other) => complaints.push(format!(
                    "{directory}: {} (rank {own}) imports {name} (rank {other}): imports point down",
                    module.join("::")
                )),
                None => complaints.push(format!("{directory}: give {name} a place in the table of ranks")),
            }
        }
    }
    complaints.sort();
    complaints.dedup();
    complaints
}

#[test]
fn imports_point_down_the_table_of_ranks() {
    let complaints: Vec<String> = CRATES
        .iter()
        .flat_map(|(directory, table)| complaints_of(directory, table))
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn the_table_names_no_module_that_is_gone() {
    for (directory, table) in CRATES {
        let root = workspace().join(directory).join("src");
        let present: BTreeSet<String> = sources_below(&root)
            .iter()
            .map(|source| module_of(source, &root)[0].clone())
            .collect();
        for name in table.iter().copied().flatten() {
            assert!(
                present.contains(*name),
                "{directory}: {name} is in the table of ranks but has no file"
            );
        }
    }
}

#[test]
fn the_cache_knows_neither_grpc_nor_kubernetes() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "-p",
            "tonnage-cache",
            "-e",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(workspace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains("blake3"), "{names:?}");
    for banned in [
        "tonic",
        "prost",
        "kube",
        "k8s-openapi",
        "tonnage-csi",
        "tonnage-proto",
        "tonnage-e2e",
    ] {
        assert!(!names.contains(banned), "tonnage-cache depends on {banned}");
    }
}

#[test]
fn every_source_says_what_it_owns_stays_short_and_has_a_home() {
    let mut complaints = Vec::new();
    for directory in ["cache", "csi", "e2e", "proto", "benches"] {
        for sub in ["src", "tests", "benches", "examples"] {
            let root = workspace().join(directory).join(sub);
            if !root.is_dir() {
                continue;
            }
            for source in sources_below(&root) {
                let text = std::fs::read_to_string(&source).unwrap();
                let shown = source
                    .strip_prefix(workspace())
                    .unwrap()
                    .display()
                    .to_string();
                if !text.starts_with("//!") {
                    complaints.push(format!("{shown} does not begin with //!"));
                }
                let stem = source.file_stem().unwrap().to_str().unwrap();
                let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
                let lines = text[..end].lines().count();
                let is_tests = sub != "src" || stem == "tests" || shown.contains("/tests/");
                if lines > MOST_LINES && !is_tests && !TOO_LONG.contains(&shown.as_str()) {
                    complaints.push(format!(
                        "{shown} has {lines} lines without its tests: it is two things"
                    ));
                }
                // Modules that several test programs share are `mod.rs`, or they would be programs themselves.
                if HOMELESS.contains(&stem) || stem == "mod" && sub == "src" {
                    complaints.push(format!("{shown}: {stem} names no responsibility"));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Words in backquotes of a document.
fn quoted(document: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(workspace().join(document)).unwrap();
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_test_that_the_semantics_name_exists() {
    let mut sources = String::new();
    for directory in [
        "cache/src",
        "cache/tests",
        "csi/src",
        "csi/tests",
        "e2e/src",
        "e2e/tests",
    ] {
        for source in sources_below(&workspace().join(directory)) {
            sources.push_str(&std::fs::read_to_string(source).unwrap());
        }
    }
    let is_test = |word: &&String| {
        word.matches('_').count() >= 3
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let named: BTreeSet<String> = quoted("docs/semantics.md")
        .iter()
        .filter(is_test)
        .cloned()
        .collect();
    assert!(named.len() > 40, "{named:?}");
    let gone: Vec<&String> = named
        .iter()
        .filter(|name| !sources.contains(&format!("fn {name}(")))
        .collect();
    assert!(
        gone.is_empty(),
        "docs/semantics.md names tests that do not exist: {gone:#?}"
    );
}

#[test]
fn every_dependency_has_its_reason() {
    let reasons = quoted("docs/architecture.md");
    let mut used = BTreeSet::new();
    for package in ["benches", "cache", "csi", "e2e", "proto"] {
        let text = std::fs::read_to_string(workspace().join(package).join("Cargo.toml")).unwrap();
        for line in text.lines() {
            let name = line.split([' ', '.', '=']).next().unwrap();
            if line.contains("workspace = true") && line.contains(".workspace") | line.contains('{')
            {
                used.insert(name.to_owned());
            }
        }
    }
    used.retain(|name| {
        !name.starts_with("tonnage-")
            && !["version", "edition", "rust-version", "license"].contains(&name.as_str())
    });
    assert!(
        used.contains("blake3") && used.contains("tonic-prost-build"),
        "{used:?}"
    );
    let missing: Vec<&String> = used
        .iter()
        .filter(|name| !reasons.contains(*name))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/architecture.md gives no reason for {missing:?}"
    );
    let declared = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let (_, dependencies) = declared.split_once("[workspace.dependencies]").unwrap();
    let (dependencies, _) = dependencies.split_once("\n[").unwrap();
    let unused: Vec<&str> = dependencies
        .lines()
        .filter_map(|line| {
            line.split(' ')
                .next()
                .filter(|name| !name.is_empty() && !name.starts_with(['#', '"']))
        })
        .filter(|name| !name.starts_with("tonnage-") && !used.contains(*name))
        .collect();
    assert!(
        unused.is_empty(),
        "the workspace declares what nobody uses: {unused:?}"
    );
}

#[test]
fn the_reader_of_imports_sees_groups_paths_and_supers() {
    let code = code_of(
        "use crate::{alpha, beta::{self, Gamma}, delta::Epsilon};\nuse super::zeta::Eta;\n// crate::comment\nfn f() { crate::theta::g(); my_crate::no(); }\n#[cfg(test)]\nmod tests { use crate::iota; }",
    );
    let top: Vec<String> = imports(&code, &["m".to_owned()], "tonnage_x")
        .into_iter()
        .collect();
    assert_eq!(top, ["alpha", "beta", "delta", "theta", "zeta"]);
    let deep = imports(
        "use super::super::kappa; use super::own;",
        &["m".to_owned(), "n".to_owned()],
        "tonnage_x",
    );
    assert_eq!(deep.into_iter().collect::<Vec<_>>(), ["kappa"]);
}
