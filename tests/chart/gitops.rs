//! Rendered by `helm template` and applied by something else: the same again changes nothing.

use serde_json::json;

use crate::fixture::{Helm, everything, quiet};
use crate::support::ControlPlane;

#[tokio::test]
async fn applying_the_same_again_shows_no_diff() {
    for flag in ["--server-side=false", "--server-side=true"] {
        let control_plane = ControlPlane::start().await;
        control_plane.kubectl_ok(&["apply", "-f", "tests/chart/prometheus-crds.yaml"]);
        control_plane.kubectl_ok(&["create", "namespace", "ops"]);
        let helm = Helm::offline();
        let rendered = helm.template("prefect-sync", "ops", &everything());
        assert_eq!(rendered, helm.template("prefect-sync", "ops", &everything()), "each rendering is different");
        let file = helm.write("rendered", "yaml", &rendered);
        let apply = ["apply", flag, "-f", &file];

        // As deploy/docs/gitops.md says: the first time the workspace's kind is not known yet, and all else is applied.
        let first = control_plane.kubectl(&apply);
        let said = String::from_utf8_lossy(&first.stderr);
        assert!(said.contains("no matches for kind \"PrefectWorkspace\""), "{said}");
        let wait = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"];
        control_plane.kubectl_ok(&wait);
        quiet(&control_plane, &apply);

        let versions = |kinds: &str| {
            let format = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.generation}{\"\\n\"}{end}";
            control_plane.kubectl_ok(&["get", kinds, "-n", "ops", "-o", format])
        };
        let kinds =
            "prefectworkspaces,deployments,networkpolicies,poddisruptionbudgets,servicemonitors,prometheusrules,crds";
        let before = versions(kinds);
        assert!(before.contains("PrefectWorkspace/default 1\n"), "{before}");
        quiet(&control_plane, &apply);
        assert_eq!(versions(kinds), before, "{flag}");
        assert_eq!(quiet(&control_plane, &["diff", flag, "-f", &file]), "");
    }
}

#[test]
fn where_the_kind_is_known_the_workspace_is_no_hook() {
    let helm = Helm::offline();
    let values = helm.values(&json!({"defaultWorkspace": {"enabled": true, "spec": {"api": {"url": "http://p/api"}}}}));
    let render = |more: &[&str]| {
        let mut args = vec!["template", "r", crate::fixture::CHART, "--values", &values];
        args.extend(more);
        helm.ok(&args)
    };
    assert!(render(&[]).contains("helm.sh/hook: post-install"));
    let rendered = render(&["--api-versions", "prefect-sync.dev/v1alpha1/PrefectWorkspace"]);
    assert!(rendered.contains("\nkind: PrefectWorkspace\n") && !rendered.contains("helm.sh/hook"), "{rendered}");
}
