//! The crash points of the product, found in its sources so that no sweep leaves one out.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::oracle::list_files;

const MACRO: &str = "fail_point!(";

/// Names of all crash points in the sources of the cache and the driver.
pub fn crash_points() -> io::Result<BTreeSet<String>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut points = BTreeSet::new();
    for sources in ["cache/src", "csi/src"] {
        let dir = workspace.join(sources);
        for path in list_files(&dir)? {
            let text = std::fs::read_to_string(dir.join(&path))?;
            for after in text.split(MACRO).skip(1) {
                let literal = after.trim_start().strip_prefix('"');
                let name = literal.and_then(|rest| rest.split('"').next());
                let shown = path.display();
                points.insert(
                    name.ok_or_else(|| {
                        io::Error::other(format!("{shown}: a crash point's name is no literal"))
                    })?
                    .to_owned(),
                );
            }
        }
    }
    Ok(points)
}
