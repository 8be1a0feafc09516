//! "Did you mean": the name nearest to a misspelt one.

use super::{Access, Askers, Hints, Missing, Object, Reason};

/// The candidate most like `name`, if one is like it enough to be worth saying.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    ranked(name, candidates).first().map(|nearest| (*nearest).to_owned())
}

/// The candidates that are like `name` enough to be worth saying, the nearest first.
#[must_use]
pub fn ranked<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let folded = fold(name);
    let mut ranked: Vec<(f64, &str)> = candidates
        .into_iter()
        .filter(|candidate| *candidate != name)
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&folded, &fold(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= 0.7)
        .collect();
    // Equals in the order of the alphabet, so that a condition's message does not change by itself.
    ranked.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// What to say to each of `askers` about a name that is not there: `missing` makes it of the nearest of `candidates`
/// that the asker `may` read.
#[must_use]
pub fn hints<'a>(
    askers: &Askers,
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    may: impl Fn(&Access, &str) -> bool,
    missing: impl Fn(&Access, Option<String>) -> Missing,
) -> Hints {
    let ranked = ranked(name, candidates);
    let nearest = |access: &Access| ranked.iter().find(|near| may(access, near)).map(|near| (*near).to_owned());
    Hints::new(askers.iter().map(|(namespace, access)| (namespace.clone(), missing(access, nearest(access)))))
}

/// That a ClusterPrefectWorkspace can't be read: why is for those who run it.
#[must_use]
pub fn cluster_trouble(name: &str, reason: Reason) -> String {
    format!("ClusterPrefectWorkspace {name:?} can't be read ({reason}); its own status tells those who run it why")
}

/// That ClusterPrefectWorkspaces are not read here.
#[must_use]
pub fn cluster_off(name: &str, why: &str) -> String {
    format!("ClusterPrefectWorkspace {name:?} is not read: {why}; use a PrefectWorkspace")
}

/// That there is no such workspace; `others` are those of its kind that the namespace may use.
#[must_use]
pub fn no_workspace(object: &Object, others: &[String], has_cluster: bool) -> String {
    let workspace = &object.workspace;
    let (kind, name) = (workspace.kind.as_str(), &workspace.name);
    let next = match nearest(&workspace.name, others.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near:?}?"),
        None if others.is_empty() => "create one or set spec.workspaceRef".to_owned(),
        None => format!("create one or set spec.workspaceRef; there is {}", listed(others)),
    };
    let place = if workspace.is_cluster() { String::new() } else { format!(" in {:?}", workspace.namespace) };
    let nor = if has_cluster && object.names_no_workspace {
        format!(" and no ClusterPrefectWorkspace {name:?}")
    } else {
        String::new()
    };
    format!("no {kind} {name:?}{place}{nor}; {next}")
}

/// The first few.
fn listed(names: &[String]) -> String {
    const MOST: usize = 5;
    let mut text = names[..names.len().min(MOST)].join(", ");
    if names.len() > MOST {
        text.push_str(", …");
    }
    text
}

/// What people mix up does not count: case, and `_` for `-`.
fn fold(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_ignores_case_and_underscores() {
        let names = ["db-password", "db-user", "other"];
        assert_eq!(nearest("db_password", names).as_deref(), Some("db-password"));
        assert_eq!(nearest("DB-PASSWORD", names).as_deref(), Some("db-password"));
        assert_eq!(nearest("db-pasword", names).as_deref(), Some("db-password"));
        assert_eq!(nearest("entirely-else", names), None);
    }

    #[test]
    fn equally_near_names_give_the_first_whatever_their_order() {
        assert_eq!(nearest("key-x", ["key-b", "key-a"]).as_deref(), Some("key-a"));
        assert_eq!(nearest("key-x", ["key-a", "key-b"]).as_deref(), Some("key-a"));
    }
}
