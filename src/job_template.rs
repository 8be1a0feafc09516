//! `job-template`: a Kubernetes work pool's base job template whose pods get what was synced.
//!
//! Which Secrets and ConfigMaps they get are job variables with the given names as defaults, so that a deployment may
//! choose others. Prefect puts a list in place of `"{{ variable }}"`, and drops the key of a variable without a value.

use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};

use crate::cli::JobTemplateArgs;
use crate::sync::is_legal_name;

/// What to do where standard input is something else.
const GET_ONE: &str = "get one with `prefect work-pool get-default-base-job-template --type kubernetes`";

/// A list in the pod's manifest that is a job variable.
struct Variable {
    name: &'static str,
    title: &'static str,
    description: &'static str,
}

const ENV_FROM: Variable = Variable {
    name: "env_from",
    title: "Env From",
    description: "Secrets and ConfigMaps whose keys are environment variables of the flow, as in a container's envFrom.",
};
const IMAGE_PULL_SECRETS: Variable = Variable {
    name: "image_pull_secrets",
    title: "Image Pull Secrets",
    description: "Secrets to pull the image with, as in a pod's imagePullSecrets.",
};

/// Reads a template from standard input and prints the edited one.
///
/// # Errors
/// When it is no base job template of a Kubernetes work pool, or a name is none.
pub fn job_template(args: &JobTemplateArgs) -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
    let template = serde_json::from_str(&text).with_context(|| format!("standard input is no JSON; {GET_ONE}"))?;
    println!("{:#}", edited(template, args)?);
    Ok(())
}

/// The template with the given names. The same again changes nothing.
///
/// # Errors
/// When it is no base job template of a Kubernetes work pool, or a name is none.
pub fn edited(mut template: Value, args: &JobTemplateArgs) -> anyhow::Result<Value> {
    let names = [&args.env_from_secret, &args.env_from_configmap, &args.image_pull_secret].into_iter().flatten();
    for name in names {
        ensure!(is_legal_name(name), "{name:?} is no name of a Secret or ConfigMap");
    }
    let reference = |kind: &str, name: &String| json!({kind: {"name": name}});
    let env_from = args.env_from_secret.iter().map(|name| reference("secretRef", name));
    let env_from = env_from.chain(args.env_from_configmap.iter().map(|name| reference("configMapRef", name)));
    let pull_secrets = args.image_pull_secret.iter().map(|name| json!({"name": name}));
    let no_template = || format!("standard input is no base job template of a Kubernetes work pool; {GET_ONE}");
    let pod = template.pointer_mut("/job_configuration/job_manifest/spec/template/spec").and_then(Value::as_object_mut);
    let pod = pod.with_context(no_template)?;
    let pulls = as_variable(pod, "imagePullSecrets", &IMAGE_PULL_SECRETS)?;
    let containers = pod.get_mut("containers").and_then(Value::as_array_mut).with_context(no_template)?;
    // The flow's container; others are the pool's own business.
    let flow = containers.iter().position(|container| container["name"] == "prefect-job").unwrap_or_default();
    let container = containers.get_mut(flow).and_then(Value::as_object_mut).with_context(no_template)?;
    let from = as_variable(container, "envFrom", &ENV_FROM)?;
    let variables = template.pointer_mut("/variables").and_then(Value::as_object_mut).with_context(no_template)?;
    let properties = variables.entry("properties").or_insert_with(|| json!({}));
    let properties = properties.as_object_mut().with_context(no_template)?;
    add(properties, &ENV_FROM, from.into_iter().chain(env_from))?;
    add(properties, &IMAGE_PULL_SECRETS, pulls.into_iter().chain(pull_secrets))?;
    Ok(template)
}

/// Makes a list of the manifest the variable; what it held before is to be the variable's default.
fn as_variable(manifest: &mut Map<String, Value>, key: &str, variable: &Variable) -> anyhow::Result<Vec<Value>> {
    let placeholder = format!("{{{{ {} }}}}", variable.name);
    match manifest.insert(key.to_owned(), Value::String(placeholder.clone())) {
        None => Ok(Vec::new()),
        Some(Value::Array(before)) => Ok(before),
        Some(Value::String(text)) if text.replace(' ', "") == placeholder.replace(' ', "") => Ok(Vec::new()),
        Some(_) => bail!("the template's {key} is a variable of your own: add {placeholder} to it by hand"),
    }
}

/// Adds to the variable's default what is not there yet. Without any the variable has no default, and its key is
/// dropped from the manifest.
fn add(
    properties: &mut Map<String, Value>,
    variable: &Variable,
    values: impl Iterator<Item = Value>,
) -> anyhow::Result<()> {
    let property = properties.entry(variable.name).or_insert_with(|| {
        json!({
            "title": variable.title,
            "description": variable.description,
            "type": "array",
            "items": {"type": "object"},
        })
    });
    let property = property.as_object_mut().with_context(|| format!("the variable {} is no object", variable.name))?;
    let mut values = values.peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let default = property.entry("default").or_insert_with(|| json!([]));
    let default =
        default.as_array_mut().with_context(|| format!("the default of the variable {} is no list", variable.name))?;
    for value in values {
        if !default.contains(&value) {
            default.push(value);
        }
    }
    Ok(())
}
