//! "Did you mean": the name nearest to a misspelt one.

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
