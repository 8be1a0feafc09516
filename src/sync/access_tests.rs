use super::*;
use crate::api::LabelRequirement;
use crate::sync::query::Query;

fn rule(namespaces: &[&str], keys: &[&str]) -> AccessRule {
    let text = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    AccessRule { namespaces: text(namespaces), keys: text(keys), ..AccessRule::default() }
}

fn selecting(label: &str, value: &str) -> Option<NamespaceSelector> {
    let match_labels = Labels::from([(label.to_owned(), value.to_owned())]);
    Some(NamespaceSelector { match_labels, match_expressions: Vec::new() })
}

/// Namespaces, each with the label `team`.
fn namespaces(teams: &[(&str, &str)]) -> BTreeMap<String, Labels> {
    let labels = |team: &str| Labels::from([("team".to_owned(), team.to_owned())]);
    teams.iter().map(|(name, team)| ((*name).to_owned(), labels(team))).collect()
}

fn secret(name: &str) -> RemoteKey {
    RemoteKey::named(Some(SECRET_BLOCK), name.to_owned())
}

fn variable(name: &str) -> RemoteKey {
    RemoteKey::named(None, name.to_owned())
}

fn listing(block_type: Option<&str>) -> RemoteKey {
    RemoteKey::Listing(Box::new(Query { block_type: block_type.map(str::to_owned), regexp: None, tags: Vec::new() }))
}

const TEAMS: &[(&str, &str)] = &[("data", "data"), ("web", "web"), ("data-science", "data")];

fn access(rules: &[AccessRule], namespace: &str) -> Access {
    Rules::new("prod", rules).access(namespace, &namespaces(TEAMS))
}

#[test]
fn nothing_is_allowed_that_no_rule_allows() {
    assert!(access(&[], "web").is_nothing());
    let rules = [rule(&["web"], &["web-*"]), rule(&["data"], &["shared"])];
    let web = access(&rules, "web");
    assert!(web.allows(&secret("web-db")) && web.allows(&variable("web-host")));
    assert!(!web.allows(&secret("shared")) && !web.allows(&secret("xweb-db")) && !web.allows(&secret("web")));
    assert!(access(&rules, "data").allows(&secret("shared")));
    assert!(access(&rules, "data-science").is_nothing());
    assert!(access(&[rule(&["web"], &["*"])], "web").allows(&secret("anything")));
    assert!(!access(&[rule(&["web"], &[])], "web").allows(&secret("anything")), "no patterns allow nothing");
    assert!(Access::default().allows(&secret("anything")), "one's own workspace has no rules");
    assert!(!Access::nothing().allows(&secret("anything")) && Access::nothing().is_nothing());
}

#[test]
fn a_rule_is_for_namespaces_by_name_or_by_label() {
    let labelled = AccessRule { namespace_selector: selecting("team", "data"), ..rule(&[], &["*"]) };
    for (namespace, may) in [("data", true), ("data-science", true), ("web", false)] {
        assert_eq!(access(std::slice::from_ref(&labelled), namespace).allows(&secret("x")), may, "{namespace}");
    }
    let everyone = AccessRule { namespace_selector: Some(NamespaceSelector::default()), ..rule(&[], &["*"]) };
    assert!(access(&[everyone], "web").allows(&secret("x")));
    let both = AccessRule { namespaces: vec!["web".into()], ..labelled.clone() };
    assert!(access(std::slice::from_ref(&both), "data").is_nothing(), "a selector widens no list");
    assert!(access(&[both], "web").allows(&secret("x")));
    let by = |operator, values: &[&str]| {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        let match_expressions = vec![LabelRequirement { key: "team".into(), operator, values }];
        let selector = NamespaceSelector { match_expressions, ..NamespaceSelector::default() };
        access(&[AccessRule { namespace_selector: Some(selector), ..rule(&[], &["*"]) }], "web").allows(&secret("x"))
    };
    assert!(by(LabelOperator::In, &["web", "ops"]) && !by(LabelOperator::In, &["data"]));
    assert!(by(LabelOperator::NotIn, &["data"]) && !by(LabelOperator::NotIn, &["web"]));
    assert!(by(LabelOperator::Exists, &[]) && !by(LabelOperator::DoesNotExist, &[]));
}

#[test]
fn a_pattern_with_the_namespaces_name_gives_each_its_own_however_they_begin() {
    let rules =
        [AccessRule { namespace_selector: selecting("team", "data"), ..rule(&[], &["{namespace}-*", "shared-*"]) }];
    let (short, long) = (access(&rules, "data"), access(&rules, "data-science"));
    assert!(short.allows(&secret("data-db")) && short.allows(&secret("shared-db")));
    assert!(long.allows(&secret("data-science-db")) && !long.allows(&secret("data-db")));
    assert!(!short.allows(&secret("data-science-db")), "that is data-science's");
    assert!(short.allows(&secret("data-scientist-db")), "no namespace of that name");
    // Whether data-science may read it, or anything: what is taken from it must not fall to data.
    let mut apart = [rule(&["data"], &["{namespace}-*"]), rule(&["data-science"], &["{namespace}-*"])];
    assert!(!access(&apart, "data").allows(&secret("data-science-db")));
    apart[1].keys = vec!["science-*".into()];
    assert!(!access(&apart, "data").allows(&secret("data-science-db")));
    assert!(!access(&apart[..1], "data").allows(&secret("data-science-db")));
    // What a rule gives by name is given.
    let named = [rule(&["data", "data-science"], &["{namespace}-*"]), rule(&["data"], &["data-science-wiki"])];
    assert!(access(&named, "data").allows(&secret("data-science-wiki")));
    // At the end, and in the middle.
    let ending = [rule(&["data", "data-science"], &["*-{namespace}"])];
    assert!(access(&ending, "data").allows(&secret("db-data")));
    let middle = [rule(&["data", "data-science"], &["team-{namespace}-*-prod"])];
    assert!(access(&middle, "data").allows(&secret("team-data-db-prod")));
    assert!(!access(&middle, "data").allows(&secret("team-data-science-db-prod")));
}

#[test]
fn block_types_limit_blocks_and_leave_variables_out_unless_they_are_named() {
    let typed = AccessRule { block_types: vec![SECRET_BLOCK.into()], ..rule(&["web"], &["*"]) };
    let web = access(std::slice::from_ref(&typed), "web");
    let aws = RemoteKey::named(Some("aws-credentials"), "x".into());
    assert!(web.allows(&secret("x")) && !web.allows(&aws) && !web.allows(&variable("x")));
    assert!(web.allows(&listing(Some(SECRET_BLOCK))));
    assert!(!web.allows(&listing(Some("aws-credentials"))) && !web.allows(&listing(None)));
    let with_variables = AccessRule { variables: Some(true), ..typed };
    assert!(access(&[with_variables], "web").allows(&variable("x")));
    let without = AccessRule { variables: Some(false), ..rule(&["web"], &["*"]) };
    let web = access(&[without], "web");
    assert!(web.allows(&aws) && !web.allows(&variable("x")));
}

#[test]
fn another_name_for_a_local_secret_opens_no_door_but_ones_own_local_secrets_are_ones_own() {
    let web = access(&[rule(&["web"], &["web-*"])], "web");
    let alias = |name: &str, local: &str| RemoteKey::LocalSecret { name: name.into(), local: local.into() };
    assert!(web.allows(&alias("web-db", "web-db-local")));
    assert!(!web.allows(&alias("web-db", "DATA_DB")), "the workspace's local secrets have names, too");
    assert!(!web.allows(&alias("data-db", "web-db")));
    let over = web.under(Arc::new(BTreeSet::from(["DATA_DB".to_owned(), "data-db".to_owned()])));
    assert!(over.allows(&alias("web-db", "DATA_DB")) && over.allows(&secret("data-db")));
    assert!(over.allows(&alias("web-db", "NOT_THERE")), "then the block is read");
    assert!(!over.allows(&alias("data-other", "NOT_THERE")));
    assert!(!over.allows(&variable("data-db")), "a local secret is no variable");
    assert!(!over.allows(&secret("data-other")));
    // What is one's own says nothing of what is there besides.
    assert!(over.allows_named(Some(SECRET_BLOCK), "data-db") && !over.gives(Some(SECRET_BLOCK), "data-db"));
    let nothing_else = access(&[], "web").under(Arc::new(BTreeSet::from(["X".to_owned()])));
    assert!(nothing_else.allows(&listing(Some(SECRET_BLOCK))) && !nothing_else.allows(&secret("Y")));
}

fn tenant(namespace: &str) -> Tenant {
    Tenant { workspace: "prod".into(), namespace: namespace.into() }
}

#[test]
fn who_may_read_something_else_than_before_is_named_and_nobody_else() {
    let mut tenants = Tenants::default();
    let asking = || ["data", "web", "later"].map(tenant).to_vec();
    let rules = [AccessRule { namespace_selector: selecting("team", "data"), ..rule(&[], &["{namespace}-*"]) }];
    assert_eq!(tenants.access(&tenant("data")), None, "nothing is known yet");
    assert_eq!(tenants.set_rules("prod", Some(&rules), asking()), []);
    assert_eq!(tenants.set_namespaces(namespaces(TEAMS), asking()), [tenant("data"), tenant("web")]);
    assert!(tenants.access(&tenant("data")).unwrap().allows(&secret("data-db")));
    assert!(tenants.access(&tenant("web")).unwrap().is_nothing());
    assert_eq!(tenants.access(&tenant("later")), None, "not seen yet is not refused");
    assert_eq!(tenants.set_namespaces(namespaces(TEAMS), asking()), []);
    // A label that says nothing here, one that does, a new namespace, one that takes a name from another.
    let labels = |team: &str| Some(Labels::from([("team".to_owned(), team.to_owned())]));
    assert_eq!(tenants.set_namespace("web", labels("other"), asking()), []);
    assert_eq!(tenants.set_namespace("web", labels("data"), asking()), [tenant("web")]);
    assert_eq!(tenants.set_namespace("web", labels("data"), asking()), []);
    assert_eq!(tenants.set_namespace("later", labels("web"), asking()), [tenant("later")]);
    assert_eq!(tenants.set_namespace("data-lake", labels("web"), asking()), [tenant("data")]);
    assert!(!tenants.access(&tenant("data")).unwrap().allows(&secret("data-lake-db")));
    assert_eq!(tenants.set_namespace("data-lake", None, asking()), [tenant("data")]);
    // Other rules, and no workspace any more.
    assert_eq!(tenants.set_rules("prod", Some(&rules), asking()), []);
    assert_eq!(tenants.set_rules("prod", Some(&[]), asking()), [tenant("data"), tenant("web")]);
    let all = tenants.set_rules("prod", None, asking());
    assert_eq!(all, asking(), "all who knew what they may read");
    assert_eq!(tenants.access(&tenant("data")), None);
    // Nobody asks any more: what is kept goes with the next change.
    tenants.set_rules("prod", Some(&rules), Vec::new());
    assert!(tenants.access(&tenant("web")).is_some());
    tenants.set_rules("prod", Some(&[]), Vec::new());
    assert!(tenants.known.is_empty());
    for n in 0..100 {
        let unknown = Tenant { workspace: format!("w{n}"), namespace: "web".into() };
        assert_eq!(tenants.access(&unknown), None);
    }
    assert!(tenants.known.is_empty(), "names that lead nowhere are not kept");
}

#[test]
fn a_refusal_is_in_the_same_words_for_whatever_the_key_is() {
    let now = Timestamp::UNIX_EPOCH;
    let message = |access: Access, key| access.refused(&key, now).failure.unwrap().message;
    assert_eq!(
        message(access(&[rule(&["web"], &["web-*"])], "web"), secret("data-db")),
        r#"namespace "web" may not read secret block "data-db" through ClusterPrefectWorkspace "prod"; correct the name (or narrow find), or ask those who run it for a rule in its spec.access"#
    );
    assert_eq!(
        message(access(&[], "web"), secret("data-db")),
        r#"namespace "web" may not read anything through ClusterPrefectWorkspace "prod"; ask those who run it for a rule in its spec.access, or use a workspace of your own"#
    );
}
