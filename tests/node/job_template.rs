//! The base job template of `deploy/examples` is what the command makes of Prefect's own.

use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::{read, run};
use crate::support::{Scratch, python, tools};

/// The template that the pinned worker brings, edited as the README says, with the Secret mounted as files, too.
fn made() -> Value {
    let home = Scratch::new("job-template");
    // The same Python as the worker's image has, and its packages.
    let mut prefect = Command::new(tools::prefect3_python());
    python::remove_prefect_variables(&mut prefect);
    prefect.env("PYTHONPATH", tools::prefect_worker()).env("HOME", home.path()).env("DO_NOT_TRACK", "1");
    prefect.args(["-m", "prefect", "work-pool", "get-default-base-job-template", "--type", "kubernetes"]);
    let base = run(&mut prefect, "");
    let mut command = Command::new(env!("CARGO_BIN_EXE_prefect-sync"));
    command.args(["job-template", "--env-from-secret", "etl", "--env-from-configmap", "my-flow"]);
    let mut template: Value = serde_json::from_str(&run(&mut command, &base)).expect("JSON");
    let pod = &mut template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"];
    pod["volumes"] = json!([{"name": "etl", "secret": {"secretName": "etl"}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "etl", "mountPath": "/etc/etl", "readOnly": true}]);
    template
}

#[test]
fn the_example_base_job_template_is_what_the_command_makes_with_a_mounted_secret() {
    let made = made();
    let example = "deploy/examples/base-job-template.json";
    let committed: Value = serde_json::from_str(&read(example)).expect("JSON");
    assert!(committed == made, "{example} is stale: it should be\n{made:#}");
}
