//! The README's way from nothing to a Ready object, followed to the letter; all other tests go on from there.

use std::process::Command;

use crate::fixture::{Space, read, root, run, secret_text};
use crate::support::Scratch;

/// Where the commands are.
const SECTION: &str = "## Ten minutes to a Secret\n";
/// The registry of the node, whose images are imported rather than pulled.
const REGISTRY: &str = "localhost";
/// The key that a reader pastes. This server wants none.
const KEY: &str = "pnu_of-the-readme\n";
/// What its Secret block holds here.
pub const DB_PASSWORD: &str = "p/w&\"1$HOME\n";

/// What a reader does.
#[derive(Debug)]
enum Step {
    /// Types a command.
    Run(String),
    /// Puts this into `flows.yaml`.
    Write(String),
}

/// The section's steps in their order.
fn steps(readme: &str) -> Vec<Step> {
    let section = readme.split_once(SECTION).unwrap_or_else(|| panic!("README.md has no {SECTION}")).1;
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let mut steps = Vec::new();
    for (number, block) in section.split("```").enumerate().filter(|(number, _)| number % 2 == 1) {
        match block.split_once('\n') {
            Some(("console", text)) => {
                let joined = text.replace("\\\n", " ");
                steps.extend(joined.lines().map(|line| {
                    let command = line.strip_prefix("$ ").unwrap_or_else(|| panic!("{line} is no command"));
                    Step::Run(command.replace("REGISTRY", REGISTRY))
                }));
            }
            Some(("yaml", text)) => steps.push(Step::Write(text.to_owned())),
            _ => panic!("block {number} is neither commands nor a manifest: {block}"),
        }
    }
    steps
}

/// Follows it. What it prints is shown when it fails.
pub fn follow() {
    let place = Scratch::new("readme");
    // The commands are for the root of the repository, where a reader's file does not belong.
    std::os::unix::fs::symlink(root().join("deploy"), place.path().join("deploy")).expect("a link");
    for step in steps(&read("README.md")) {
        match step {
            Step::Write(text) => std::fs::write(place.path().join("flows.yaml"), text).expect("a file"),
            // `make test-node` has built it, and imported it into the node instead of pushing it to a registry.
            Step::Run(command) if ["make image", "skopeo copy "].iter().any(|start| command.starts_with(start)) => {}
            Step::Run(command) => {
                // `helm` and `kubectl` are the node's; Helm's caches are below the home folder.
                let mut shell = Command::new("sh");
                shell.args(["-euc", &command]).current_dir(place.path()).env("HOME", place.path());
                let pasted = if command.contains("/dev/stdin") { KEY } else { "" };
                println!("$ {command}\n{}", run(&mut shell, pasted));
            }
        }
    }
}

#[tokio::test]
async fn who_follows_the_readme_from_helm_install_on_has_the_values_where_pods_find_them() {
    let flows = Space::of_the_readme().await;
    assert_eq!(secret_text(&flows, "etl", "DB_PASSWORD").await.as_deref(), Some(DB_PASSWORD));
    let setting = flows.kubectl(&["get", "configmap", "my-flow", "-o", "jsonpath={.data.LAST_EXECUTED}"]);
    assert_eq!(setting, "1970-01-01", "the default, as there is no such variable");
    assert_eq!(secret_text(&flows, "prefect-api-key", "key").await.as_deref(), Some(KEY));
}

#[test]
fn its_commands_and_manifests_are_found() {
    let found = steps(&read("README.md"));
    let count =
        |start: &str| found.iter().filter(|step| matches!(step, Step::Run(it) if it.starts_with(start))).count();
    assert_eq!((count("helm install "), count("kubectl apply "), count("kubectl wait ")), (1, 1, 1), "{found:?}");
    assert_eq!(found.iter().filter(|step| matches!(step, Step::Write(_))).count(), 1, "{found:?}");
}
