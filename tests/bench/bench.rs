//! The benchmark: what many objects cost, on the real parts, in one table. See README.md beside this file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod measure;
mod phases;
mod proxy;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use phases::{Bench, Subject};
use proxy::CountingProxy;
use support::{Prefect, PrefectOptions};

/// Keys that only objects made later have.
const SPARE: usize = 200;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The operator's binary, built beside this one.
fn binary() -> PathBuf {
    let bench = std::env::current_exe().expect("the benchmark's own path");
    let folder = bench.parent().and_then(Path::parent).expect("target/PROFILE/examples/bench");
    folder.join("prefect-sync")
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[tokio::main]
async fn main() {
    support::install_crypto_provider();
    let sizes: Vec<usize> = setting("SIZES")
        .unwrap_or_else(|| "1000,10000".into())
        .split(',')
        .map(|size| size.trim().parse().expect("SIZES is a list of numbers, such as 1000,10000"))
        .collect();
    let most = sizes.iter().copied().max().unwrap_or(1000);
    let started = Instant::now();
    println!("starting Prefect with {} Secret blocks", most + SPARE);
    let prefect = Prefect::start(PrefectOptions::default()).await;
    phases::seed(&prefect, most + SPARE);
    let proxy = CountingProxy::start(prefect.port()).await;
    let phases = setting("PHASES").map(|names| names.split(',').map(|name| name.trim().to_owned()).collect());
    let bench = Bench { prefect, proxy, spare_from: most, phases };
    let mut runs = Vec::new();
    if let Some(binary) = setting("PEER") {
        let manifests = PathBuf::from(setting("PEER_MANIFESTS").expect("PEER needs PEER_MANIFESTS"));
        let args = setting("PEER_ARGS").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let peer = Subject::Peer { binary: binary.into(), manifests, args };
        runs.push(bench.run(&peer, sizes[0], 10).await);
    }
    // The first size also in one namespace, for the figures of one workspace: until there are cluster workspaces, each
    // namespace has its own.
    let spreads = |n: usize| if n == 0 { vec![1, 10] } else { vec![10] };
    for (n, size) in sizes.iter().enumerate() {
        let spreads =
            setting("NAMESPACES").map_or_else(|| spreads(n), |one| vec![one.parse().expect("NAMESPACES is a number")]);
        for spread in spreads {
            runs.push(bench.run(&Subject::Operator(binary()), *size, spread).await);
        }
    }
    report::finish(&runs, &root().join("target/bench/report.json"));
    println!("took {:.0} s", started.elapsed().as_secs_f64());
}
