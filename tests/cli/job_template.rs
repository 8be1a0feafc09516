//! `job-template`: what it makes of a work pool's base job template, as Prefect itself judges it.

use std::path::Path;

use serde_json::json;

use crate::support::{Prefect, PrefectOptions, Scratch, prefect};
use crate::{Ran, binary, ran};

/// Runs `job-template` with this on its standard input.
fn job_template(home: &Path, args: &[&str], input: &str) -> Ran {
    let file = home.join("input.json");
    std::fs::write(&file, input).unwrap();
    ran(binary(home).arg("job-template").args(args).stdin(std::fs::File::open(&file).unwrap()))
}

#[tokio::test]
async fn the_job_template_is_one_that_prefect_takes_and_fills_in() {
    let scratch = Scratch::new("job-template");
    let prefect = Prefect::start(PrefectOptions::default()).await;
    let all: serde_json::Value =
        serde_json::from_str(&prefect.get_text("/collections/views/aggregate-worker-metadata").await).unwrap();
    let base = &all["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"];
    let args =
        ["--env-from-secret", "etl,shared", "--env-from-configmap", "my-flow", "--image-pull-secret", "registry"];
    let edited = job_template(scratch.path(), &args, &base.to_string());
    assert_eq!((edited.code, edited.stderr.as_str()), (0, ""));
    // Prefect's own validation, as `prefect work-pool create` meets it.
    let template: serde_json::Value = serde_json::from_str(&edited.stdout).unwrap();
    let pool = json!({"name": "k8s", "type": "kubernetes", "base_job_template": template});
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.post(format!("{}/work_pools/", prefect.url())).json(&pool).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 201, "{}", answer.text().await.unwrap());
    // And Prefect's own way from template and variables to a manifest.
    std::fs::write(scratch.path().join("template.json"), &edited.stdout).unwrap();
    let filled = |overrides: &str| {
        let snippet = format!(
            r#"
import json
from prefect.utilities.templating import apply_values
template = json.load(open({path:?}))
values = {{name: of["default"] for name, of in template["variables"]["properties"].items() if "default" in of}}
values.update({overrides})
pod = apply_values(template["job_configuration"], values)["job_manifest"]["spec"]["template"]["spec"]
print(json.dumps([pod["containers"][0].get("envFrom"), pod.get("imagePullSecrets")]))
"#,
            path = scratch.path().join("template.json").display().to_string(),
        );
        let text = prefect::prefect3_python(&snippet, prefect.url(), scratch.path());
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let secret = |name: &str| json!({"secretRef": {"name": name}});
    let map = json!({"configMapRef": {"name": "my-flow"}});
    assert_eq!(filled("{}"), json!([[secret("etl"), secret("shared"), map], [{"name": "registry"}]]));
    // A deployment's own choice.
    let own = r#"{"env_from": [{"secretRef": {"name": "other"}}], "image_pull_secrets": []}"#;
    assert_eq!(filled(own), json!([[secret("other")], []]));
    // The same again changes nothing, and more is added to it.
    assert_eq!(job_template(scratch.path(), &args, &edited.stdout), edited);
    let more = job_template(scratch.path(), &["--env-from-secret", "more"], &edited.stdout);
    std::fs::write(scratch.path().join("template.json"), &more.stdout).unwrap();
    assert_eq!(filled("{}")[0], json!([secret("etl"), secret("shared"), map, secret("more")]));
    // What stood there before stays; without any name a variable has no value, and its key goes.
    let mut own = base.clone();
    own["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
        json!([secret("before")]);
    let kept = job_template(scratch.path(), &[], &own.to_string());
    std::fs::write(scratch.path().join("template.json"), &kept.stdout).unwrap();
    assert_eq!(filled("{}"), json!([[secret("before")], null]));

    // What is no such template.
    let get_one = "get one with `prefect work-pool get-default-base-job-template --type kubernetes`\n";
    let docker = all["prefect-docker"]["docker"]["default_base_job_configuration"].to_string();
    own["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
        json!("{{ mine }}");
    for (args, input, message) in [
        (&[][..], "no json", format!("standard input is no JSON; {get_one}").trim_end().to_owned()),
        (&[], &docker, format!("standard input is no base job template of a Kubernetes work pool; {get_one}")),
        (
            &[],
            &own.to_string(),
            "the template's envFrom is a variable of your own: add {{ env_from }} to it by hand\n".to_owned(),
        ),
        (&["--env-from-secret", "a/b"], &base.to_string(), "\"a/b\" is no name of a Secret or ConfigMap\n".to_owned()),
    ] {
        let ran = job_template(scratch.path(), args, input);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{message}");
        assert!(ran.stderr.starts_with(&format!("prefect-sync: {message}")), "{}", ran.stderr);
    }
}
