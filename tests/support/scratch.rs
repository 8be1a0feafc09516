//! Scratch folders under `target/tmp`.

use std::path::{Path, PathBuf};
use std::sync::Once;

/// A folder that is deleted when dropped, except while panicking: then the logs in it are what one
/// wants to read. What a panic or a static fixture (never dropped) leaves behind, the next test
/// process sweeps.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes `target/tmp/NAME-PID-RANDOM`.
    pub fn new(name: &str) -> Self {
        static SWEEP: Once = Once::new();
        let parent = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp");
        SWEEP.call_once(|| sweep(&parent));
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = parent.join(format!("{name}-{}-{}", std::process::id(), &id[..8]));
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot create {}: {e}", path.display()));
        Self(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
}

/// Deletes the folders of processes that are gone. An etcd leaves over 64 MB, so this is not for
/// tidiness only.
fn sweep(parent: &Path) {
    if !Path::new("/proc/self").exists() {
        return; // No way to tell who is alive without /proc; `cargo clean` deletes them.
    }
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.rsplit('-').nth(1).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}
