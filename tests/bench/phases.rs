//! What is done to the operator, or to a peer, and measured.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Targets, place, prefect_secret, until};
use crate::measure::{self, Audit, Latencies, cpu_seconds, difference, listed, memory_mib, unix_now, writes};
use crate::proxy::CountingProxy;
use crate::report::Run;
use crate::root;
use crate::support::python::remove_prefect_variables;
use crate::support::{Leashed, Prefect, Scratch, ports, tools};

/// Changes that are timed, and how many a second of them are made with events and without.
const CHANGES: usize = 200;
const WITH_EVENTS: Duration = Duration::from_millis(200);
const POLLING: Duration = Duration::from_millis(600);
/// New objects that are timed.
const NEW: usize = 100;
/// Without a request for so long it is quiet.
const QUIET: f64 = 10.0;
const LONG: Duration = Duration::from_secs(900);
const MINUTE: Duration = Duration::from_secs(60);
/// Secrets of others, and how large each is.
const OTHERS: usize = 5_000;
const OTHER_BYTES: usize = 100 * 1024;

/// What is measured.
pub enum Subject {
    /// This operator.
    Operator(PathBuf),
    /// Another one: a program, what to apply before it starts, and its arguments.
    Peer { binary: PathBuf, manifests: PathBuf, args: Vec<String> },
}

/// What all runs share.
pub struct Bench {
    pub prefect: Prefect,
    pub proxy: CountingProxy,
    /// The number of the first key that no object has from the start.
    pub spare_from: usize,
    /// The phases after the first sync; `None` for all.
    pub phases: Option<Vec<String>>,
}

/// Puts `count` blocks into Prefect's database.
pub fn seed(prefect: &Prefect, count: usize) {
    let mut command = Command::new(tools::prefect3_python());
    remove_prefect_variables(&mut command);
    command.arg(root().join("tests/bench/seed.py")).args([&count.to_string(), "40"]);
    command.env("PREFECT_HOME", prefect.home()).env("HOME", prefect.home()).env("DO_NOT_TRACK", "1");
    let output = command.output().expect("running Python");
    assert!(output.status.success(), "seeding Prefect: {}", String::from_utf8_lossy(&output.stderr));
}

/// A run in progress.
struct Measured<'a> {
    bench: &'a Bench,
    subject: &'a Subject,
    cluster: Cluster,
    audit: Audit,
    targets: Targets,
    namespaces: Vec<String>,
    size: usize,
    run: Run,
    scratch: Scratch,
    process: Option<Leashed>,
}

impl Bench {
    /// All phases with `size` objects in so many namespaces.
    pub async fn run(&self, subject: &Subject, size: usize, spread: usize) -> Run {
        let is_peer = matches!(subject, Subject::Peer { .. });
        let what = if is_peer { "peer" } else { "prefect-sync" };
        let title = format!("{what}, {size} objects in {spread} namespace{}", if spread == 1 { "" } else { "s" });
        println!("\n== {title}");
        let mut run = Run::new(title);
        let bare = if is_peer || spread == 1 { None } else { Some(bare_loop(&mut run, size).await) };

        let cluster = Cluster::start().await;
        let namespaces = cluster.namespaces("bench", spread).await;
        self.proxy.allow_events(true);
        let mut audit = cluster.audit();
        if let Subject::Peer { manifests, .. } = subject {
            let folder = manifests.display().to_string();
            cluster.control_plane.kubectl_ok(&["apply", "--server-side", "-f", &folder]);
            audit.user = Some("admin".to_owned());
        } else {
            cluster.workspaces(&namespaces, &self.proxy.url(), "60s").await;
        }
        let (url, template) = (self.proxy.url(), template(subject));
        cluster.objects(&namespaces, size, &|namespace, name| manifest(&template, &url, namespace, name)).await;
        let targets = Targets::watch(cluster.admin.clone());
        let scratch = Scratch::new("bench");
        let mut measured =
            Measured { bench: self, subject, cluster, audit, targets, namespaces, size, run, scratch, process: None };
        measured.first_sync(bare).await;
        let does = |phase: &str| self.phases.as_ref().is_none_or(|phases| phases.iter().any(|name| name == phase));
        if does("idle") {
            measured.idle_minute().await;
        }
        if is_peer {
            if does("polling") {
                measured.changes("polling", MINUTE * 15, POLLING, 1).await;
            }
        } else if spread > 1 {
            if does("events") {
                measured.changes("with events", MINUTE, WITH_EVENTS, 1).await;
            }
            if does("restart") {
                measured.restart().await;
            }
            if does("polling") {
                measured.polling().await;
            }
            if does("new") {
                measured.new_objects().await;
            }
        } else if does("others") {
            measured.secrets_of_others().await;
        }
        measured.stop().await;
        let log = std::fs::read_to_string(measured.scratch.path().join("subject.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        if !lines.is_empty() && !is_peer {
            println!("    it warned {} times; the first ones:", lines.len());
            lines.iter().take(5).for_each(|line| println!("      {line}"));
        }
        measured.run
    }
}

async fn bare_loop(run: &mut Run, size: usize) -> f64 {
    let cluster = Cluster::start().await;
    let sample = size.min(1_000);
    let mut best = (8, f64::INFINITY);
    for width in [8, 16, 32, 64] {
        let took = cluster.bare_loop(sample, width).await;
        if took < best.1 {
            best = (width, took);
        }
    }
    // Sizes beyond the sample at the best width of the sample.
    let took = if size == sample { best.1 } else { cluster.bare_loop(size, best.0).await };
    run.add("bare loop: targets and statuses", took, "s", None, format!("{} in flight is best", best.0));
    took
}

/// The text of a peer's object.
fn template(subject: &Subject) -> Option<String> {
    let Subject::Peer { manifests, .. } = subject else { return None };
    let path = manifests.join("object.yaml.tmpl");
    Some(std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn manifest(template: &Option<String>, url: &str, namespace: &str, name: &str) -> Value {
    let Some(template) = template else { return prefect_secret(namespace, name) };
    let text = [("namespace", namespace), ("name", name), ("key", name), ("prefect_url", url)]
        .into_iter()
        .fold(template.clone(), |text, (word, value)| text.replace(&format!("{{{{{word}}}}}"), value));
    serde_saphyr::from_str(&text).expect("object.yaml.tmpl is one YAML document")
}

impl Measured<'_> {
    async fn start(&mut self) -> u32 {
        let control_plane = &self.cluster.control_plane;
        let mut command = match self.subject {
            Subject::Operator(binary) => {
                let mut command = Command::new(binary);
                let kubeconfig = control_plane.kubeconfig_for_service_account("prefect-sync", "prefect-sync").await;
                command.arg("run").args(["--health-address", &format!("127.0.0.1:{}", ports::free())]);
                command.envs(shipped_environment()).env("KUBECONFIG", kubeconfig).env("PREFECT_SYNC_LOG", "warn");
                command
            }
            Subject::Peer { binary, args, .. } => {
                let mut command = Command::new(binary);
                command.args(args).env("KUBECONFIG", control_plane.kubeconfig());
                command
            }
        };
        remove_prefect_variables(&mut command);
        command.current_dir(self.scratch.path());
        let log = self.scratch.path().join("subject.log");
        let process = Leashed::spawn(&command, &log, Duration::from_secs(10));
        let pid = process.pid();
        self.process = Some(process);
        pid
    }

    async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop().await;
        }
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Waits until nothing has been asked of the API server for a while; when the last request was made.
    async fn quiet(&self, from: measure::Position) -> f64 {
        let started = unix_now();
        let (mut from, mut last) = (from, started);
        loop {
            let next = self.audit.position();
            last = self.audit.since(from).1.map_or(last, |at| last.max(at));
            from = next;
            if unix_now() - last > QUIET {
                return last;
            }
            assert!(unix_now() - started < LONG.as_secs_f64(), "it is never quiet");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn first_sync(&mut self, bare: Option<f64>) {
        let (position, asked) = (self.audit.position(), self.bench.proxy.counts());
        // It has been idle for a minute, and may have been swapped out; one that is in use is not.
        self.bench.prefect.id_of_block("secret", &place(&self.namespaces, 0).1).await;
        let started = Instant::now();
        let pid = self.start().await;
        until("all targets", LONG, || match self.targets.count("k") {
            (count, _) if count >= self.size => Ok(()),
            (count, _) => Err(format!("{count} of {}", self.size)),
        })
        .await;
        let last = self.targets.count("k").1.expect("there are targets");
        let took = last.duration_since(started).as_secs_f64();
        self.quiet(position).await;
        let cpu = cpu_seconds(pid);
        self.run.add("first sync: start to all targets", took, "s", None, "");
        if let Some(bare) = bare {
            self.run.add("first sync: ratio to the bare loop", took / bare, "x", Some(1.5), "");
        }
        let asked = difference(&self.bench.proxy.counts(), &asked);
        let is_one_workspace = self.namespaces.len() == 1;
        let goal = (is_one_workspace && self.size == 1_000).then_some(10.0);
        self.run.add("first sync: requests to Prefect", asked.values().sum::<u64>() as f64, "", goal, listed(&asked));
        let (requests, _) = self.audit.since(position);
        self.run.add("first sync: writes to the API server", writes(&requests) as f64, "", None, listed(&requests));
        self.run.add("first sync: CPU", cpu, "s", None, "until quiet");
        self.run.add("memory: peak of the first sync", memory_mib(pid, "VmHWM"), "MiB", None, "");
    }

    async fn idle_minute(&mut self) {
        let (position, asked, cpu) = (self.audit.position(), self.bench.proxy.counts(), cpu_seconds(self.pid()));
        tokio::time::sleep(MINUTE).await;
        let cpu = cpu_seconds(self.pid()) - cpu;
        let asked = difference(&self.bench.proxy.counts(), &asked);
        let (requests, _) = self.audit.since(position);
        let is_one_workspace = self.namespaces.len() == 1;
        let goal = (is_one_workspace && self.size == 1_000).then_some(6.0);
        self.run.add("idle minute: requests to Prefect", asked.values().sum::<u64>() as f64, "", goal, listed(&asked));
        self.run.add(
            "idle minute: writes to the API server",
            writes(&requests) as f64,
            "",
            Some(0.0),
            listed(&requests),
        );
        self.run.add("idle minute: CPU", cpu, "s", (self.size == 1_000).then_some(0.3), "");
        let goal = match self.size {
            1_000 => Some(30.0),
            10_000 => Some(80.0),
            _ => None,
        };
        let note = format!("of which {:.1} MiB are pages of the program's file", memory_mib(self.pid(), "RssFile"));
        self.run.add("memory: 60 s after", memory_mib(self.pid(), "VmRSS"), "MiB", goal, note);
    }

    /// Changes keys that are spread over the objects one after the other, and times each until its target has it.
    async fn changes(&mut self, mode: &str, patience: Duration, every: Duration, round: usize) {
        let count = CHANGES.min(self.size);
        let numbers: Vec<usize> = (0..count).map(|n| n * self.size / count).collect();
        let mut ids = Vec::new();
        for n in &numbers {
            ids.push(self.bench.prefect.id_of_block("secret", &place(&self.namespaces, *n).1).await);
        }
        let mut ticks = tokio::time::interval(every);
        let mut sent = Vec::new();
        for (n, id) in numbers.iter().zip(&ids) {
            ticks.tick().await;
            let value = format!("round{round}-{n}-").to_owned();
            let at = Instant::now();
            self.bench.prefect.patch_block(id, json!({"value": format!("{value:x<40}")})).await;
            sent.push((*n, value, at));
        }
        let held = |n: usize, value: &str| {
            let (namespace, name) = place(&self.namespaces, n);
            self.targets.held(namespace, &name, value)
        };
        until("all changes to arrive", patience + MINUTE * 2, || {
            let missing = sent.iter().filter(|(n, value, _)| held(*n, value).is_none()).count();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} are missing")) }
        })
        .await;
        let took = sent.iter().filter_map(|(n, value, at)| Some(held(*n, value)?.duration_since(*at)));
        let latencies = Latencies::new(took.collect());
        let events = mode == "with events";
        let note = format!("of {} changes, from the request on", latencies.count());
        let what = |share: &str| format!("change to target, {mode}: {share}");
        self.run.add(&what("p50"), latencies.percentile(0.5), "s", events.then_some(0.3), &note);
        self.run.add(&what("p99"), latencies.percentile(0.99), "s", events.then_some(1.0), "");
        self.run.add(&what("worst"), latencies.percentile(1.0), "s", None, "");
    }

    async fn restart(&mut self) {
        self.stop().await;
        let position = self.audit.position();
        let started = unix_now();
        let pid = self.start().await;
        let last = self.quiet(position).await;
        let (requests, _) = self.audit.since(position);
        self.run.add("restart: time to quiet", (last - started).max(0.0), "s", None, "until its last request");
        self.run.add("restart: writes to the API server", writes(&requests) as f64, "", Some(0.0), listed(&requests));
        self.run.add("restart: CPU", cpu_seconds(pid), "s", None, "");
    }

    async fn polling(&mut self) {
        self.stop().await;
        self.bench.proxy.allow_events(false);
        let position = self.audit.position();
        self.start().await;
        self.quiet(position).await;
        self.changes("polling every 60 s", MINUTE * 2, POLLING, 2).await;
        self.bench.proxy.allow_events(true);
    }

    /// Makes objects while refreshes run without a pause, and times each until its target is there.
    async fn new_objects(&mut self) {
        self.stop().await;
        // As fast as one Prefect server can, and all the time.
        self.cluster.workspaces(&self.namespaces, &self.bench.proxy.url(), "10s").await;
        let position = self.audit.position();
        self.start().await;
        self.quiet(position).await;
        let mut ticks = tokio::time::interval(Duration::from_millis(400));
        let mut sent = Vec::new();
        let before = self.bench.proxy.counts();
        for n in 0..NEW {
            ticks.tick().await;
            let key = format!("k{:05}", self.bench.spare_from + n);
            let namespace = &self.namespaces[n % self.namespaces.len()];
            let at = Instant::now();
            self.cluster.create(prefect_secret(namespace, &key)).await;
            sent.push((namespace.clone(), key, at));
        }
        until("all new targets", MINUTE * 2, || {
            let missing = sent.iter().filter(|(namespace, key, _)| self.targets.held(namespace, key, "k").is_none());
            match missing.count() {
                0 => Ok(()),
                missing => Err(format!("{missing} are missing")),
            }
        })
        .await;
        let asked = difference(&self.bench.proxy.counts(), &before);
        let took = sent
            .iter()
            .filter_map(|(namespace, key, at)| Some(self.targets.held(namespace, key, "k")?.duration_since(*at)));
        let latencies = Latencies::new(took.collect());
        let note = format!("of {}, refreshing every 10 s; meanwhile {}", latencies.count(), listed(&asked));
        self.run.add("new object to target: p50", latencies.percentile(0.5), "s", None, "");
        let goal = (self.size == 10_000).then_some(1.0);
        self.run.add("new object to target: p99", latencies.percentile(0.99), "s", goal, note);
    }

    async fn secrets_of_others(&mut self) {
        let before = memory_mib(self.pid(), "VmRSS");
        let namespace = self.cluster.namespaces("others", 1).await.remove(0);
        let api: Api<Secret> = Api::namespaced(self.cluster.admin.clone(), &namespace);
        let value = "x".repeat(OTHER_BYTES);
        for n in 0..OTHERS {
            let secret: Secret =
                serde_json::from_value(json!({"metadata": {"name": format!("other-{n}")}, "type": "example.com/other", "stringData": {"v": value}}))
                    .expect("a Secret");
            api.create(&PostParams::default(), &secret).await.expect("creating a Secret");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        let after = memory_mib(self.pid(), "VmRSS");
        let note = format!("{OTHERS} Secrets of {} KiB", OTHER_BYTES / 1024);
        self.run.add("memory: growth by the Secrets of others", after - before, "MiB", Some(5.0), note);
    }
}

/// What the container of `deploy/manifests` has in its environment.
fn shipped_environment() -> Vec<(String, String)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/manifests/20-deployment.yaml");
    let text = std::fs::read_to_string(path).expect("the shipped Deployment");
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let containers =
        documents.iter().flat_map(|document| document["spec"]["template"]["spec"]["containers"].as_array());
    let variables = containers.flatten().flat_map(|container| container["env"].as_array()).flatten();
    let text = |value: &serde_json::Value| Some(value.as_str()?.to_owned());
    // Those that only a pod has, such as its name, have no value here.
    variables.filter_map(|variable| Some((text(&variable["name"])?, text(&variable["value"])?))).collect()
}
