//! What `helm install` brings about.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;

use crate::fixture::{RELEASE, SOON, Space, kubectl, operators, run};

#[tokio::test]
async fn the_chart_installs_the_operator_from_its_own_image_in_two_replicas_under_restricted_pod_security() {
    let release = Space::release().await;
    release
        .eventually("two Ready replicas", SOON, async || {
            let deployment = release.all::<Deployment>().get(RELEASE).await.map_err(|error| error.to_string())?;
            let status = deployment.status.unwrap_or_default();
            match (status.ready_replicas, status.replicas) {
                (Some(2), Some(2)) if operators(&release).await.len() == 2 => Ok(()),
                other => Err(format!("{other:?} of two are Ready")),
            }
        })
        .await;
    let namespace = run(&mut kubectl(&["get", "namespace", RELEASE, "-o", "jsonpath={.metadata.labels}"]), "");
    assert!(namespace.contains(r#""pod-security.kubernetes.io/enforce":"restricted""#), "{namespace}");
    let image = format!("localhost/prefect-sync:{}", env!("CARGO_PKG_VERSION"));
    for pod in operators(&release).await {
        let name = pod.name_any();
        let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
        assert_eq!(status.image, image, "{name}");
        // The program says which commit it is of, and there is nothing else to run.
        let version = release.kubectl(&["exec", &name, "--", "/prefect-sync", "--version"]);
        assert!(version.starts_with(&format!("prefect-sync {}", env!("CARGO_PKG_VERSION"))), "{version}");
        let shell = kubectl(&["exec", "--namespace", RELEASE, &name, "--", "/bin/sh", "-c", "true"]).output().unwrap();
        let refused = String::from_utf8_lossy(&shell.stderr).into_owned();
        assert!(!shell.status.success() && refused.contains("no such file or directory"), "{refused}");
    }
}

#[tokio::test]
async fn the_operator_reaches_prefect_by_the_name_of_its_service() {
    let release = Space::release().await;
    // Through the cluster's DNS: the program is static, so it resolves names without the libraries of an image.
    release.eventually_ready("clusterprefectworkspace/default").await;
}
