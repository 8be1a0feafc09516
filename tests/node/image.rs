//! What `make image` made, as a registry would get it.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::{read, root, run};
use crate::support::Scratch;

/// A blob of the archive, by the descriptor that names it.
fn blob(archive: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest").replace(':', "/");
    archive.join("blobs").join(digest)
}

fn parsed(path: &Path) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_image_is_one_program_and_certificates_for_a_user_without_rights() {
    let archive = Scratch::new("image");
    let tar = |arguments: &[&str]| run(Command::new("tar").args(arguments).current_dir(archive.path()), "");
    tar(&["-xf", &root().join("target/image/prefect-sync.tar").display().to_string()]);
    let manifest = parsed(&blob(archive.path(), &parsed(&archive.path().join("index.json"))["manifests"][0]));
    let image = parsed(&blob(archive.path(), &manifest["config"]));

    let config = &image["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!((&config["Entrypoint"], &config["Cmd"]), (&json!(["/prefect-sync"]), &json!(["run"])));
    assert_eq!(image["os"], "linux");
    let labels = &config["Labels"];
    let label = |name: &str| labels[format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
    assert_eq!((label("title"), label("version")), ("prefect-sync", env!("CARGO_PKG_VERSION")));
    assert_eq!((label("description"), label("licenses")), (env!("CARGO_PKG_DESCRIPTION"), "Apache-2.0"));
    let commit = label("revision").trim_end_matches("-dirty");
    assert!(commit.len() == 40 && commit.chars().all(|digit| digit.is_ascii_hexdigit()), "{labels}");

    // Type and rights, owner, path of everything that is in it.
    let mut found = Vec::new();
    for layer in manifest["layers"].as_array().expect("layers") {
        let listed = tar(&["--numeric-owner", "-tvzf", &blob(archive.path(), layer).display().to_string()]);
        found.extend(listed.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {} {}", words[0], words[1], words[5])
        }));
    }
    found.retain(|line| !line.starts_with('d'));
    found.sort();
    assert_eq!(
        found,
        ["-rw-r--r-- 0/0 etc/ssl/certs/ca-certificates.crt", "-rwxr-xr-x 0/0 prefect-sync"],
        "files that nobody but root may change, and no shell"
    );
}
