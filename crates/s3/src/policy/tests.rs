use super::*;
use serde_json::json;

fn caller(project: &str, user: &str) -> Caller {
    Caller { user_id: user.into(), user_name: "n".into(), project_id: Some(project.into()), ..Caller::default() }
}

fn facts(pairs: &[(&str, &str)]) -> Facts {
    pairs.iter().map(|(k, v)| (k.to_string(), vec![v.to_string()])).collect()
}

fn policy(statements: Value) -> Policy {
    Policy::parse(&json!({"Version": "2012-10-17", "Statement": statements}).to_string(), "b").unwrap()
}

fn ask(p: &Policy, c: Option<&Caller>, action: &str, resource: &str, facts: &Facts) -> Verdict {
    p.decide(&Question { caller: c, action, resource, facts })
}

#[test]
fn patterns() {
    assert!(matches("a*c?", "abbcd") && matches("*", "") && matches("s3:Get*", "s3:GetObject"));
    assert!(!matches("a?", "a") && !matches("", "a") && !matches("a*b", "ac"));
    let hostile = "a*".repeat(500) + "b";
    assert!(!matches(&hostile, &"a".repeat(2000)));
}

#[test]
fn principals_actions_resources() {
    let p = policy(json!([
        {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/public/*"},
        {"Effect": "Allow", "Principal": {"AWS": ["p2", "arn:aws:iam::p3:user/u3"]}, "Action": ["s3:*"], "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"]},
        {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject*", "Resource": "arn:aws:s3:::b/keep/*"},
    ]));
    let none = Facts::new();
    assert_eq!(ask(&p, None, "s3:GetObject", "arn:aws:s3:::b/public/x", &none), Verdict::Allow);
    assert_eq!(ask(&p, None, "s3:GetObject", "arn:aws:s3:::b/private", &none), Verdict::Silent);
    assert_eq!(ask(&p, None, "s3:PutObject", "arn:aws:s3:::b/public/x", &none), Verdict::Silent);
    assert_eq!(ask(&p, Some(&caller("p2", "x")), "s3:ListBucket", "arn:aws:s3:::b", &none), Verdict::Allow);
    assert_eq!(ask(&p, Some(&caller("p2", "x")), "s3:DeleteObjectVersion", "arn:aws:s3:::b/keep/1", &none), Verdict::Deny);
    assert_eq!(ask(&p, Some(&caller("p3", "u3")), "s3:PutObject", "arn:aws:s3:::b/k", &none), Verdict::Allow);
    assert_eq!(ask(&p, Some(&caller("p3", "u4")), "s3:PutObject", "arn:aws:s3:::b/k", &none), Verdict::Silent);
    assert_eq!(ask(&p, Some(&caller("p4", "u3")), "s3:PutObject", "arn:aws:s3:::b/k", &none), Verdict::Silent);
    assert!(p.is_public());
    let not =
        policy(json!({"Effect": "Deny", "NotPrincipal": {"AWS": "p1"}, "NotAction": "s3:Get*", "NotResource": "arn:aws:s3:::b/free/*"}));
    assert_eq!(ask(&not, Some(&caller("p1", "u")), "s3:PutObject", "arn:aws:s3:::b/k", &none), Verdict::Silent);
    assert_eq!(ask(&not, Some(&caller("p2", "u")), "s3:PutObject", "arn:aws:s3:::b/k", &none), Verdict::Deny);
    assert_eq!(ask(&not, Some(&caller("p2", "u")), "s3:GetObject", "arn:aws:s3:::b/k", &none), Verdict::Silent);
    assert_eq!(ask(&not, Some(&caller("p2", "u")), "s3:PutObject", "arn:aws:s3:::b/free/k", &none), Verdict::Silent);
}

#[test]
fn conditions_hold_or_not() {
    let with = |condition: Value| {
        policy(json!({"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "arn:aws:s3:::b*", "Condition": condition}))
    };
    let holds =
        |condition: Value, f: &[(&str, &str)]| ask(&with(condition), None, "s3:GetObject", "arn:aws:s3:::b/k", &facts(f)) == Verdict::Allow;
    assert!(holds(json!({"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "::1"]}}), &[("aws:sourceip", "10.1.2.3")]));
    assert!(holds(json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), &[("aws:sourceip", "::ffff:10.1.2.3")]));
    assert!(!holds(json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), &[("aws:sourceip", "11.1.2.3")]));
    assert!(!holds(json!({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), &[("aws:sourceip", "10.1.2.3")]));
    assert!(holds(json!({"StringLike": {"s3:prefix": ["home/*", ""]}}), &[("s3:prefix", "home/a")]));
    assert!(!holds(json!({"StringEquals": {"s3:prefix": "home/"}}), &[]));
    assert!(holds(json!({"StringEqualsIfExists": {"s3:prefix": "home/"}}), &[]));
    assert!(holds(json!({"StringNotEquals": {"s3:x-amz-acl": "public-read"}}), &[]));
    assert!(!holds(json!({"StringNotEquals": {"s3:x-amz-acl": ["public-read", "x"]}}), &[("s3:x-amz-acl", "x")]));
    assert!(holds(json!({"NumericLessThanEquals": {"s3:max-keys": 10}}), &[("s3:max-keys", "10")]));
    assert!(!holds(json!({"NumericLessThan": {"s3:max-keys": "10"}}), &[("s3:max-keys", "ten")]));
    assert!(holds(json!({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}), &[("aws:currenttime", "2021-01-01T00:00:00Z")]));
    assert!(!holds(json!({"Bool": {"aws:SecureTransport": true}}), &[("aws:securetransport", "false")]));
    assert!(holds(json!({"Null": {"s3:x-amz-acl": "true"}}), &[]));
    let tags: Facts = [("s3:requestobjecttagkeys".to_string(), vec!["a".to_string(), "z".to_string()])].into();
    let all = with(json!({"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": ["a", "b"]}}));
    assert_eq!(ask(&all, None, "s3:PutObject", "arn:aws:s3:::b/k", &tags), Verdict::Silent);
    let any = with(json!({"ForAnyValue:StringEquals": {"s3:RequestObjectTagKeys": ["a", "b"]}}));
    assert_eq!(ask(&any, None, "s3:PutObject", "arn:aws:s3:::b/k", &tags), Verdict::Allow);
}

#[test]
fn what_is_not_understood_is_not_stored() {
    let base = json!({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*"});
    let with = |name: &str, v: Value| {
        let mut s = base.clone();
        s[name] = v;
        json!({"Statement": [s]}).to_string()
    };
    let nested = "[".repeat(3000);
    for text in [
        String::new(),
        "[]".into(),
        "{".into(),
        json!({"Statement": []}).to_string(),
        json!({"Version": "1999", "Statement": [base]}).to_string(),
        with("Effect", json!("Maybe")),
        with("Principal", json!({"Service": "x"})),
        with("Principal", json!({"AWS": "arn:aws:iam::p:user/*"})),
        with("Action", json!("ec2:Run")),
        with("Action", json!([])),
        with("Resource", json!("arn:aws:s3:::other/*")),
        with("Resource", json!("*")),
        with("Condition", json!({"StringMatches": {"s3:prefix": "a"}})),
        with("Condition", json!({"StringEquals": {"aws:MultiFactorAuthAge": "a"}})),
        with("Condition", json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/64"}})),
        with("Condition", json!({"StringLike": {"s3:prefix": "${aws:username}/*"}})),
        with("NotAction", json!("s3:*")),
        with("Extra", json!(1)),
        with("Sid", json!("x".repeat(MAX_POLICY))),
        nested,
    ] {
        assert!(Policy::parse(&text, "b").is_err(), "{}", &text[..text.len().min(120)]);
    }
    assert!(Policy::parse(&json!({"Statement": base}).to_string(), "b").is_ok());
}
