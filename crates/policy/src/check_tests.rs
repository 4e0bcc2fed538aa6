use super::*;

fn creds() -> Credentials {
    let extra = serde_json::json!({
        "trust": {"trustor_user_id": "tr", "roles": [{"id": "r1"}, {"id": "r2"}]},
        "level": 3, "nothing": null, "flag": true,
    });
    let Value::Object(extra) = extra else { panic!() };
    Credentials {
        user_id: "u".into(),
        user_domain_id: Some("ud".into()),
        project_id: Some("p".into()),
        project_domain_id: Some("pd".into()),
        roles: vec!["Member".into(), "reader".into()],
        service_roles: vec!["service".into()],
        is_admin_project: true,
        extra,
        ..Credentials::default()
    }
}

fn eval(text: &str, target: &Target<'_>) -> bool {
    Check::parse(text).unwrap_or_else(|e| panic!("{text:?}: {e}")).eval(&[], &creds(), target)
}

fn target() -> Target<'static> {
    Target::project("p")
        .with("user_id", "u")
        .with("other", "x")
        .with("role_name", "MEMBER")
        .with("target.project.domain.id", "pd")
        .with("visibility", "public")
        .with("device_owner", "network:dhcp")
        .with_bool("shared", true)
        .with_bool("router:external", false)
        .with_opt("empty", None::<&str>)
}

#[test]
fn evaluation() {
    let t = target();
    for (text, want) in [
        ("", true),
        ("@", true),
        ("!", false),
        ("role:member", true),
        ("role:MEMBER", true),
        ("role:admin", false),
        ("role:%(role_name)s", true),
        ("role:%(gone)s", false),
        ("role:%(empty)s", false),
        ("user_id:%(user_id)s", true),
        ("user_id:%(other)s", false),
        ("user_id:%(gone)s", false),
        ("user_id:u", true),
        ("project_id:%(project_id)s", true),
        ("tenant_id:%(tenant_id)s", true),
        ("tenant:%(project_id)s", true),
        ("project_id:%(other)s", false),
        ("token.project.domain.id:%(target.project.domain.id)s", true),
        ("domain_id:%(target.project.domain.id)s", false),
        ("user_domain_id:ud", true),
        ("service_roles:service", true),
        ("roles:reader", true),
        ("is_admin_project:True", true),
        ("system_scope:all", false),
        ("system_scope:None", true),
        ("project_id:None", false),
        ("'public':%(visibility)s", true),
        ("\"public\":%(visibility)s", true),
        ("'private':%(visibility)s", false),
        ("'x:y':x:y", true),
        ("'http://h':x", false),
        ("True:%(shared)s", true),
        ("True:%(router:external)s", false),
        ("False:%(router:external)s", true),
        ("None:%(empty)s", true),
        ("None:%(other)s", false),
        ("None:%(gone)s", false),
        ("7:7", true),
        ("field:networks:shared=True", true),
        ("field:networks:router:external=True", false),
        ("field:networks:gone=True", false),
        ("field:port:device_owner=~^network:", true),
        ("field:port:device_owner=~^compute:", false),
        ("trust.trustor_user_id:tr", true),
        ("trust.roles.id:r2", true),
        ("trust.roles.id:r3", false),
        ("trust.gone.id:r3", false),
        ("trust:tr", false),
        ("level:3", true),
        ("flag:True", true),
        ("nothing:None", true),
        ("unknown:None", false),
        ("user_id:%%", false),
        ("is_admin:True", false),
        ("is_admin:False", true),
        ("user_id:x%(user_id)s", false),
    ] {
        assert_eq!(eval(text, &t), want, "{text}");
    }
}

#[test]
fn absent_values_never_match_each_other() {
    let t = target();
    assert!(!eval("domain_id:%(empty)s", &t));
    assert!(!eval("system_scope:%(empty)s", &t));
    let nobody = Credentials::default();
    let t = Target::new().with("user_id", "").with("project_id", "None");
    for text in ["user_id:%(user_id)s", "project_id:%(project_id)s", "tenant_id:%(project_id)s"] {
        assert!(!Check::parse(text).unwrap().eval(&[], &nobody, &t), "{text}");
    }
    let blank = Credentials { project_id: Some(String::new()), ..Credentials::default() };
    let t = Target::project("");
    assert!(!Check::parse("project_id:%(project_id)s").unwrap().eval(&[], &blank, &t));
}

#[test]
fn precedence() {
    let t = Target::new();
    for (text, want) in [
        ("@ or ! and !", true),
        ("(@ or !) and !", false),
        ("! and ! or @", true),
        ("! or @ and @", true),
        ("not ! and !", false),
        ("not (! and !)", true),
        ("not not @", true),
        ("not @ or @", true),
        ("@ and not !", true),
        ("((@)) AND (NOT !)", true),
        ("( role:reader\tand\n( @ ) )", true),
        ("! or ! or ! or @", true),
        ("@ and @ and @ and !", false),
        ("(role:admin and !) or (role:reader and user_id:u)", true),
        ("@ or ! and ! or !", true),
    ] {
        assert_eq!(eval(text, &t), want, "{text}");
    }
}

#[test]
fn list_form() {
    let t = target();
    for (text, want) in [
        ("[]", true),
        ("[[]]", false),
        ("[[\"@\"]]", true),
        ("[\"role:admin\", \"role:reader\"]", true),
        ("[[\"role:reader\", \"role:admin\"]]", false),
        ("[[\"role:admin\"], [\"role:reader\", \"user_id:%(user_id)s\"]]", true),
    ] {
        assert_eq!(eval(text, &t), want, "{text}");
    }
    for text in ["[", "[1]", "[[1]]", "[[[\"@\"]]]", "[\"role\"]", "[\"@\"] x"] {
        assert!(Check::parse(text).is_err(), "{text}");
    }
}

#[test]
fn what_does_not_parse() {
    for text in [
        " ",
        "and",
        "or",
        "not",
        "@ and",
        "or @",
        "@ @",
        "role:a role:b",
        "(",
        ")",
        "()",
        "(@",
        "@)",
        "((@)",
        "@ not",
        "role",
        "is_admin_project",
        "role:",
        "rule:",
        ":x",
        "'text'",
        "\"two words\":x",
        "'a:b",
        "'it''s':x",
        "user_id:%(x)",
        "user_id:%(x)d",
        "user_id:%x",
        "user_id:%",
        "user_id:%()s",
        "user_id:%(",
        "http://example.org/",
        "a b:c",
        "a+b:c",
        "a..b:c",
        ".a:c",
        "field:x",
        "field:a:b",
        "field:a:=b",
        "field:a:b=~x.*",
        "@@",
        "!role:x",
        "@ and or @",
    ] {
        assert!(Check::parse(text).is_err(), "{text:?} parsed");
    }
}

#[test]
fn hostile_input_is_refused_without_a_panic() {
    let deep = |n: usize| format!("{}@{}", "(".repeat(n), ")".repeat(n));
    assert!(Check::parse(&deep(MAX_NESTING - 1)).is_ok());
    for text in [
        deep(MAX_NESTING),
        deep(5_000),
        "(".repeat(MAX_LEN),
        "not ".repeat(4_000) + "@",
        format!("{}@", "@ and ".repeat(MAX_LEN)),
        "x".repeat(MAX_LEN + 1),
        "[".repeat(MAX_LEN),
    ] {
        assert!(Check::parse(&text).is_err(), "{} bytes parsed", text.len());
    }
    let wide = format!("{}@", "@ and ".repeat(2_000));
    assert!(eval(&wide, &Target::new()));
    for text in ["é:é", "'é':é", "%(é)s:x", "role:%(\u{0})s", "\u{a0}", "'", "\"", "':", "'':"] {
        let _ = Check::parse(text);
    }
}

#[test]
fn roles_compare_without_case_beyond_ascii() {
    assert!(same_role("Ärzte", "äRZTE"));
    assert!(!same_role("a", "ab"));
}
