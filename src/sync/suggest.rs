//! "Did you mean": the name nearest to a misspelt one.

use super::Object;

/// The candidate most like `name`, if one is like it enough to be worth saying.
#[must_use]
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let folded = fold(name);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != name)
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&folded, &fold(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= 0.7)
        // Among equals the first in the alphabet, so that a condition's message does not change by itself.
        .max_by(|(a, x), (b, y)| a.total_cmp(b).then_with(|| y.cmp(x)))
        .map(|(_, candidate)| candidate.to_owned())
}

/// That there is no such workspace; `others` are those that the namespace has.
#[must_use]
pub fn no_workspace(object: &Object, others: &[String]) -> String {
    let workspace = &object.workspace;
    let next = match nearest(&workspace.name, others.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near:?}?"),
        None if others.is_empty() => "create one or set spec.workspaceRef".to_owned(),
        None => format!("create one or set spec.workspaceRef; there is {}", listed(others)),
    };
    format!("no {} {:?} in {:?}; {next}", workspace.kind.as_str(), workspace.name, workspace.namespace)
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
