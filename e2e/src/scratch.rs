//! A temporary directory that goes even where a store left read-only directories in it: views are 0555, and only
//! root may remove files from those as they are.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes an empty one.
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("tonnage-").tempdir()?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be opened up stays, as it would without this; whoever looks for leftovers finds it.
        drop(open_up(self.0.path()));
    }
}

/// Makes every directory below `dir` writable for its owner; symbolic links are not followed.
fn open_up(dir: &Path) -> io::Result<()> {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_directories_go_too() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        let view = path.join("views/ab.0");
        std::fs::create_dir_all(&view).unwrap();
        std::fs::write(view.join("f"), "x").unwrap();
        std::fs::set_permissions(&view, std::fs::Permissions::from_mode(0o555)).unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
