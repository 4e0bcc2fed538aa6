//! Security groups and images in compute's old form.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::{Value, json};
use support::{PROJECT, cloud};

const GROUP: &str = "eeeeeeee-0000-4000-8000-000000000001";

fn group() -> Value {
    let rule = |direction: &str, prefix: Value, remote: Value| {
        json!({"id": "r", "security_group_id": GROUP, "direction": direction, "ethertype": "IPv4", "protocol": "tcp",
            "port_range_min": 22, "port_range_max": 22, "remote_ip_prefix": prefix, "remote_group_id": remote})
    };
    json!({"id": GROUP, "name": "web", "description": "d", "project_id": PROJECT,
        "security_group_rules": [rule("egress", json!(null), json!(null)), rule("ingress", json!("10.0.0.0/8"), json!(null)), rule("ingress", json!(null), json!(GROUP))]})
}

#[tokio::test]
async fn security_groups() {
    let c = cloud().await;
    c.network.answer(&format!("GET /v2.0/security-groups?project_id={PROJECT}"), 200, json!({"security_groups": [group()]}));
    c.network.answer(&format!("GET /v2.0/security-groups/{GROUP}"), 200, json!({"security_group": group()}));
    c.network.answer("POST /v2.0/security-groups", 201, json!({"security_group": group()}));
    c.network.answer(
        &format!("DELETE /v2.0/security-groups/{GROUP}"),
        409,
        json!({"NeutronError": {"type": "SecurityGroupInUse", "message": "in use", "detail": ""}}),
    );
    let (status, v) = c.get("reader", "", "/v2.1/os-security-groups").await;
    assert_eq!(status, 200, "{v}");
    let rules = &v["security_groups"][0]["rules"];
    assert_eq!(
        (&rules[0]["ip_range"], &rules[0]["group"], rules.as_array().unwrap().len()),
        (&json!({"cidr": "10.0.0.0/8"}), &json!({}), 2)
    );
    assert_eq!(rules[1]["group"], json!({"name": "web", "tenant_id": PROJECT}));
    assert_eq!(c.get("reader", "2.36", "/v2.1/os-security-groups").await.0, 404);
    assert_eq!(
        c.call("reader", "", "POST /v2.1/os-security-groups", json!({"security_group": {"name": "x", "description": "d"}})).await.0,
        403
    );
    assert_eq!(
        c.call("member", "", "POST /v2.1/os-security-groups", json!({"security_group": {"name": "x", "description": "d"}})).await.0,
        200
    );
    assert_eq!(
        c.call("member", "", "POST /v2.1/os-security-groups", json!({"security_group": {"name": "", "description": "d"}})).await.0,
        400
    );
    assert_eq!(c.call("member", "", &format!("DELETE /v2.1/os-security-groups/{GROUP}"), Value::Null).await.0, 400);
    assert_eq!(c.call("member", "", "DELETE /v2.1/os-security-groups/", Value::Null).await.0, 404);
    assert_eq!(c.get("member", "", "/v2.1/os-security-groups/eeeeeeee-0000-4000-8000-000000000009").await.0, 404);
    let made = json!({"security_group_rule": {"id": "n", "security_group_id": GROUP, "direction": "ingress", "protocol": "tcp", "port_range_min": 22, "port_range_max": 22, "remote_ip_prefix": "0.0.0.0/0"}});
    c.network.answer("POST /v2.0/security-group-rules", 201, made);
    let rule = |protocol: &str, from: i64, to: i64| json!({"security_group_rule": {"parent_group_id": GROUP, "ip_protocol": protocol, "from_port": from, "to_port": to}});
    let (status, v) = c.call("member", "", "POST /v2.1/os-security-group-rules", rule("tcp", 22, 22)).await;
    assert_eq!(
        (status, &v["security_group_rule"]["ip_range"], &v["security_group_rule"]["parent_group_id"]),
        (200, &json!({"cidr": "0.0.0.0/0"}), &json!(GROUP))
    );
    for (p, from, to) in [("gre", 1, 2), ("tcp", 3, 2), ("tcp", 1, 70_000)] {
        assert_eq!(c.call("member", "", "POST /v2.1/os-security-group-rules", rule(p, from, to)).await.0, 400);
    }
}

#[tokio::test]
async fn images() {
    let c = cloud().await;
    let image = json!({"id": "i1", "name": "snap", "status": "active", "size": 7, "min_ram": 0, "min_disk": 1, "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "visibility": "private", "instance_uuid": "s1", "image_type": "snapshot"});
    c.image.answer("GET /v2/images?status=active&limit=1", 200, json!({"images": [image]}));
    c.image.answer("GET /v2/images/i1", 200, image);
    c.image.answer("DELETE /v2/images/i1", 204, json!(null));
    let (status, v) = c.get("reader", "", "/v2.1/images/detail?status=ACTIVE&limit=1").await;
    assert_eq!(status, 200, "{v}");
    let i = &v["images"][0];
    assert_eq!(
        (&i["status"], &i["progress"], &i["server"]["id"], &i["metadata"]["image_type"]),
        (&json!("ACTIVE"), &json!(100), &json!("s1"), &json!("snapshot"))
    );
    assert!(v["images_links"].is_array() && i["metadata"].get("visibility").is_none());
    assert_eq!(c.get("reader", "", "/v2.1/images/i1").await.1["image"]["OS-EXT-IMG-SIZE:size"], 7);
    assert_eq!(c.get("reader", "", "/v2.1/images/nope").await.0, 404);
    assert_eq!(c.get("reader", "", "/v2.1/images/a%2Fb").await.0, 404);
    assert_eq!(c.get("reader", "2.36", "/v2.1/images").await.0, 404);
    assert_eq!(c.get("reader", "2.38", "/v2.1/images/i1/metadata").await.1["metadata"]["instance_uuid"], "s1");
    assert_eq!(c.call("member", "", "DELETE /v2.1/images/i1", Value::Null).await.0, 204);
}
