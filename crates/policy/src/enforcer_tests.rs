use super::*;
use crate::personas;

fn overrides(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn load(defaults: &[RuleDefault], pairs: &[(&str, &str)]) -> Result<Enforcer> {
    Enforcer::new(defaults.iter().copied(), &overrides(pairs))
}

fn user(roles: &[&str]) -> Credentials {
    Credentials {
        user_id: "u".into(),
        project_id: Some("p".into()),
        roles: roles.iter().map(|r| r.to_string()).collect(),
        is_admin_project: true,
        ..Credentials::default()
    }
}

const GET: RuleDefault = RuleDefault::new("server:get", "rule:project_reader_or_admin", personas::PROJECT);
const LIST: RuleDefault = RuleDefault::new("host:list", "rule:admin_api", personas::SYSTEM_PROJECT);

fn compute() -> Vec<RuleDefault> {
    personas::COMPUTE.iter().copied().chain([GET, LIST]).collect()
}

#[test]
fn references_are_followed() {
    let e = load(&compute(), &[]).unwrap();
    let (own, other) = (Target::project("p"), Target::project("q"));
    for (roles, target, rule, allowed) in [
        (&["reader"][..], &own, "server:get", true),
        (&["reader"], &other, "server:get", false),
        (&["admin"], &other, "server:get", true),
        (&[], &own, "server:get", false),
        (&["reader"], &own, "host:list", false),
        (&["admin"], &own, "host:list", true),
        (&["admin"], &own, "no:such:rule", false),
    ] {
        assert_eq!(e.allows(rule, &user(roles), target), allowed, "{roles:?} {rule}");
    }
    let denied = e.check("server:get", &user(&[]), &own).unwrap_err();
    assert_eq!(denied, Denied { rule: "server:get".into(), reason: Reason::Rule });
    assert_eq!(Error::from(denied).kind.status(), 403);
    assert_eq!(e.check("nope", &user(&["admin"]), &own).unwrap_err().reason, Reason::Rule);
}

#[test]
fn scopes_are_enforced_before_the_rule() {
    let open = |name, scopes| RuleDefault::new(name, "@", scopes);
    let rules = [
        open("any", &[]),
        open("project", personas::PROJECT),
        open("system", personas::SYSTEM),
        open("domain", personas::DOMAIN),
        open("system_project", personas::SYSTEM_PROJECT),
        RuleDefault::new("via", "rule:system", personas::PROJECT),
    ];
    let e = load(&rules, &[("system", "!")]).unwrap();
    let e2 = load(&rules, &[]).unwrap();
    let none = Credentials { user_id: "u".into(), ..Credentials::default() };
    let project = user(&[]);
    let system = Credentials { system_scope: Some("all".into()), ..none.clone() };
    let domain = Credentials { domain_id: Some("d".into()), ..none.clone() };
    for (who, allowed) in [
        (&none, &["any"][..]),
        (&project, &["any", "project", "system_project", "via"]),
        (&system, &["any", "system", "system_project"]),
        (&domain, &["any", "domain"]),
    ] {
        for rule in &rules {
            let got = e2.check(rule.name, who, &Target::new());
            assert_eq!(got.is_ok(), allowed.contains(&rule.name), "{} {:?}", rule.name, who.scope());
            assert!(got.is_ok() || got.unwrap_err().reason == Reason::Scope);
        }
    }
    // An override keeps the scopes: the wrong scope is still what is reported.
    assert_eq!(e.check("system", &project, &Target::new()).unwrap_err().reason, Reason::Scope);
    assert_eq!(e.check("system", &system, &Target::new()).unwrap_err().reason, Reason::Rule);
}

#[test]
fn overrides_replace_and_add() {
    let e = load(&compute(), &[("server:get", "rule:auditor"), ("auditor", "role:auditor"), ("typo", "@")]).unwrap();
    assert!(e.allows("server:get", &user(&["auditor"]), &Target::project("q")));
    assert!(!e.allows("server:get", &user(&["reader"]), &Target::project("p")));
    let info = e.rules().find(|r| r.name == "server:get").unwrap();
    assert_eq!((info.check, info.overridden, info.registered), ("rule:auditor", true, true));
    assert!(e.rules().any(|r| r.name == "host:list" && !r.overridden));
    assert_eq!(e.unused_overrides(), ["typo"]);
    assert!(e.contains("auditor") && !e.contains("nobody"));
}

#[test]
fn is_admin_follows_context_is_admin() {
    let e = load(&compute(), &[("context_is_admin", "role:cloud_admin")]).unwrap();
    assert!(e.allows("host:list", &user(&["cloud_admin"]), &Target::new()));
    assert!(!e.allows("host:list", &user(&["admin"]), &Target::new()));
    let e = load(&compute(), &[("context_is_admin", "is_admin:True or role:x")]).unwrap();
    assert!(e.allows("host:list", &user(&["x"]), &Target::new()));
    assert!(load(&compute(), &[("context_is_admin", "rule:admin_api")]).is_err());
}

#[test]
fn faulty_rules_are_named() {
    let d = [RuleDefault::helper("a", "@"), RuleDefault::helper("b", "rule:a")];
    for (pairs, words) in [
        (&[("a", "rule:b")][..], &["\"a\"", "a -> b -> a"][..]),
        (&[("a", "rule:a")], &["\"a\"", "a -> a"]),
        (&[("a", "not (@ and rule:b)")], &["\"a\"", "itself"]),
        (&[("b", "rule:missing")], &["\"b\"", "rule:missing"]),
        (&[("b", "role:x or")], &["\"b\"", "ends"]),
        (&[("zz", "x")], &["\"zz\""]),
    ] {
        let e = load(&d, pairs).unwrap_err();
        assert!(words.iter().all(|w| e.message.contains(w)), "{pairs:?}: {}", e.message);
    }
    let twice = [RuleDefault::helper("a", "@"), RuleDefault::helper("a", "!")];
    assert!(load(&twice, &[]).is_err());
    assert!(load(&[twice[0], twice[0]], &[]).is_ok());
}

#[test]
fn long_chains_and_blow_ups_are_refused() {
    let chain = |n: usize, check: &dyn Fn(usize) -> String| -> BTreeMap<String, String> {
        (0..n).map(|i| (format!("r{i:05}"), if i + 1 == n { "@".into() } else { check(i + 1) })).collect()
    };
    let single = |i: usize| format!("rule:r{i:05}");
    assert!(Enforcer::new([], &chain(100, &single)).is_ok());
    assert!(Enforcer::new([], &chain(50_000, &single)).unwrap_err().message.contains("deeply"));
    // Reversed names: the references point at rules measured before, so only the sum is too deep.
    let back: BTreeMap<_, _> =
        (0..1000).map(|i| (format!("r{i:05}"), if i == 0 { "@".into() } else { format!("rule:r{:05}", i - 1) })).collect();
    assert!(Enforcer::new([], &back).unwrap_err().message.contains("deeply"));
    let double = |i: usize| format!("rule:r{i:05} and rule:r{i:05}");
    assert!(Enforcer::new([], &chain(60, &double)).unwrap_err().message.contains("too many"));
}

#[test]
fn persona_lists_compile() {
    for list in [personas::COMPUTE, personas::NETWORK, personas::BLOCK, personas::IMAGE, personas::IDENTITY, personas::PLACEMENT] {
        load(list, &[]).unwrap();
    }
    let plain = [
        personas::ADMIN_OR_SERVICE,
        personas::ADMIN_OR_OWNER,
        personas::PROJECT_MANAGER_OR_ADMIN,
        personas::PROJECT_MEMBER_OR_ADMIN,
        personas::PROJECT_READER_OR_ADMIN,
        personas::SYSTEM_ADMIN,
        personas::SYSTEM_READER_OR_OWNER_OR_ADMIN,
        personas::DOMAIN_MANAGER,
        personas::DOMAIN_READER,
    ];
    for check in plain {
        let e = load(&[RuleDefault::helper("x", check)], &[]).unwrap();
        assert!(!e.allows("x", &user(&["nothing"]), &Target::project("q")), "{check}");
    }
}

#[test]
fn network_owner_and_shared_rules() {
    let e = load(personas::NETWORK, &[]).unwrap();
    let t = Target::project("q").with("network:project_id", "p").with_bool("shared", false);
    assert!(e.allows("admin_owner_or_network_owner", &user(&[]), &t));
    assert!(!e.allows("admin_or_owner", &user(&[]), &t));
    assert!(!e.allows("shared", &user(&[]), &t));
}
