//! What a gate measures against: files of random bytes, and the benchmark's own server in a process of its own, so
//! that neither its time nor its system calls are taken for the client's.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tonnage_e2e::generate::Noise;

/// The benchmark's program.
pub(crate) const BENCH: &str = env!("CARGO_BIN_EXE_tonnage-bench");

/// A server with objects, and a place for caches.
pub(crate) struct Stand {
    scratch: TempDir,
    server: Child,
    address: SocketAddr,
}

impl Stand {
    /// Serves `s3://models/NAME/model.bin`, of so many bytes, for each name; equal names have equal bytes.
    pub(crate) fn serving(files: &[(&str, u64)]) -> Self {
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = scratch.path().join("served");
        for (name, size) in files {
            let directory = root.join("models").join(name);
            std::fs::create_dir_all(&directory).unwrap();
            write_noise(name, *size, &directory.join("model.bin"));
        }
        let mut server = Command::new(BENCH)
            .arg("serve")
            .arg(&root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = server.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap();
        Self {
            address: address.parse().unwrap(),
            scratch,
            server,
        }
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's URL.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An empty directory on the disk that is measured, gone with what is in it when it is dropped: every attempt takes a
    /// gibibyte, and a machine of CI has not much more of them than attempts.
    pub(crate) fn new_directory(&self) -> TempDir {
        tempfile::tempdir_in(self.scratch.path()).unwrap()
    }

    /// The digest of what is served under a name, by the `blake3` crate alone.
    pub(crate) fn digest(&self, name: &str) -> blake3::Hash {
        hash(&self.served(name))
    }

    fn served(&self, name: &str) -> PathBuf {
        let models = self.scratch.path().join("served/models");
        models.join(name).join("model.bin")
    }

    /// Makes the server count from zero.
    pub(crate) fn reset(&self) {
        self.ask("POST /_reset");
    }

    /// What the server has counted.
    pub(crate) fn stats(&self) -> serde_json::Value {
        let answer = self.ask("GET /_stats");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    fn ask(&self, what: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request = format!("{what} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // It serves until it is ended; an error means that it has ended by itself.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// The BLAKE3 of a file.
pub(crate) fn hash(path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).unwrap()).unwrap();
    hasher.finalize()
}

fn write_noise(name: &str, size: u64, path: &Path) {
    let noise = Noise::new(1, name);
    let mut file = File::create_new(path).unwrap();
    let mut block = vec![0u8; 1 << 20];
    let mut at = 0;
    while at < size {
        let length = usize::try_from(size - at).unwrap().min(block.len());
        let (block, _) = block.split_at_mut(length);
        noise.fill(at, block);
        file.write_all(block).unwrap();
        at += length as u64;
    }
    file.sync_all().unwrap();
}
