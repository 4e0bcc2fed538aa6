//! Routers, floating addresses, security groups, tags, RBAC and quotas over the API.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{DEMO, Net, OTHER, kind, net};
use serde_json::{Value, json};

struct Topology {
    public: String,
    network: Value,
    subnet: Value,
    router: Value,
    port: Value,
}

fn id(v: &Value) -> &str {
    v["id"].as_str().expect("an id")
}

async fn topology(t: &Net) -> Topology {
    let public = t.public().await;
    let network = t.network("demo").await;
    let subnet = t.subnet("demo", &network, "10.0.0.0/24").await;
    let attrs = json!({"name": "r", "external_gateway_info": {"network_id": public}});
    let router = t.make("demo", "router", "/v2.0/routers", attrs).await;
    let (status, leg) =
        t.put("demo", &format!("/v2.0/routers/{}/add_router_interface", id(&router)), json!({"subnet_id": subnet["id"]})).await;
    assert_eq!(status, 200, "{leg}");
    assert_eq!(leg["subnet_ids"], json!([subnet["id"]]));
    let attrs = json!({"network_id": network["id"], "binding:host_id": "host1", "device_owner": "compute:nova", "device_id": "s", "project_id": DEMO});
    let port = t.make("admin", "port", "/v2.0/ports", attrs).await;
    Topology { public, network, subnet, router, port }
}

#[tokio::test]
async fn a_floating_address_leads_to_a_port_through_the_router() {
    let t = net().await;
    let x = topology(&t).await;
    let f = t.make("demo", "floatingip", "/v2.0/floatingips", json!({"floating_network_id": x.public, "port_id": x.port["id"]})).await;
    assert_eq!(f["router_id"], x.router["id"]);
    assert_eq!(f["fixed_ip_address"], x.port["fixed_ips"][0]["ip_address"]);
    assert_eq!(f["port_details"]["device_id"], "s");
    t.service.settled().await;
    let path = format!("/v2.0/floatingips/{}", id(&f));
    let (_, shown) = t.get("demo", &path).await;
    assert_eq!(shown["floatingip"]["status"], "ACTIVE");
    let state = t.plane.state();
    let r = &state.routers[id(&x.router)];
    assert_eq!(r.floating_ips.len(), 1);
    assert_eq!(r.interfaces[0].addresses[0].to_string(), "10.0.0.1/24");
    assert!(r.gateway.as_ref().is_some_and(|g| g.snat && g.next_hops[0].to_string() == "172.24.4.1"));
    let flat = caelum_netplane::NetworkKind::Flat { physical_network: "public".into() };
    assert_eq!(state.networks[&x.public].kind, flat);
    assert!(state.networks[id(&x.network)].dhcp.as_ref().is_some_and(|d| !d.metadata));
    let gateway_path = format!("/v2.0/routers/{}", id(&x.router));
    let (status, body) = t.put("demo", &gateway_path, json!({"router": {"external_gateway_info": null}})).await;
    assert_eq!((status, kind(&body)), (409, "RouterExternalGatewayInUseByFloatingIp"));
    let remove = format!("/v2.0/routers/{}/remove_router_interface", id(&x.router));
    let (status, body) = t.put("demo", &remove, json!({"subnet_id": x.subnet["id"]})).await;
    assert_eq!((status, kind(&body)), (409, "RouterInterfaceInUseByFloatingIP"));
    let second = t.make("demo", "floatingip", "/v2.0/floatingips", json!({"floating_network_id": x.public})).await;
    let again = format!("/v2.0/floatingips/{}", id(&second));
    let (status, body) = t.put("demo", &again, json!({"floatingip": {"port_id": x.port["id"]}})).await;
    assert_eq!((status, kind(&body)), (409, "FloatingIPPortAlreadyAssociated"));
    let (status, body) = t.put("demo", &path, json!({"floatingip": {"port_id": null}})).await;
    assert_eq!((status, &body["floatingip"]["router_id"]), (200, &Value::Null));
    t.service.settled().await;
    assert!(t.plane.state().routers[id(&x.router)].floating_ips.is_empty());
    assert_eq!(t.put("demo", &again, json!({"floatingip": {"port_id": x.port["id"]}})).await.0, 200);
    assert_eq!(t.delete("demo", &format!("/v2.0/ports/{}", id(&x.port))).await, 204);
    let (_, shown) = t.get("demo", &again).await;
    assert_eq!(shown["floatingip"]["port_id"], Value::Null);
    for p in [path, again] {
        assert_eq!(t.delete("demo", &p).await, 204);
    }
    assert_eq!(t.delete("demo", &gateway_path).await, 409);
    assert_eq!(t.put("demo", &remove, json!({"subnet_id": x.subnet["id"]})).await.0, 200);
    assert_eq!(t.delete("demo", &gateway_path).await, 204);
    t.service.settled().await;
    assert!(t.plane.state().routers.is_empty());
    assert!(!t.plane.state().networks.contains_key(&x.public));
    assert_eq!(t.delete("demo", &format!("/v2.0/networks/{}", id(&x.network))).await, 204);
    let (_, ports) = t.get("admin", "/v2.0/ports").await;
    assert_eq!(ports["ports"], json!([]));
    assert!(t.service.audit(false).await.unwrap().is_empty());
}

#[tokio::test]
async fn routers_refuse_what_cannot_be() {
    let t = net().await;
    let x = topology(&t).await;
    let add = format!("/v2.0/routers/{}/add_router_interface", id(&x.router));
    assert_eq!(t.put("demo", &add, json!({"subnet_id": x.subnet["id"]})).await.0, 400);
    assert_eq!(t.put("demo", &add, json!({})).await.0, 400);
    assert_eq!(t.put("demo", &add, json!({"subnet_id": x.subnet["id"], "port_id": x.port["id"]})).await.0, 400);
    assert_eq!(t.put("demo", &add, json!({"port_id": x.port["id"]})).await.0, 409);
    let foreign = t.network("other").await;
    let foreign = t.subnet("other", &foreign, "10.9.0.0/24").await;
    assert_eq!(t.put("demo", &add, json!({"subnet_id": foreign["id"]})).await.0, 404);
    assert_eq!(t.put("other", &add, json!({"subnet_id": foreign["id"]})).await.0, 404);
    let two = t.network("demo").await;
    let two = t.subnet("demo", &two, "10.0.0.0/16").await;
    let (status, body) = t.put("demo", &add, json!({"subnet_id": two["id"]})).await;
    assert_eq!((status, kind(&body)), (400, "BadRequest"));
    let inside = json!({"external_gateway_info": {"network_id": x.network["id"]}});
    assert_eq!(t.post("demo", "/v2.0/routers", json!({"router": inside})).await.0, 400);
    let fip = json!({"floatingip": {"floating_network_id": x.network["id"]}});
    assert_eq!(t.post("demo", "/v2.0/floatingips", fip).await.0, 400);
    let lonely = t.network("demo").await;
    t.subnet("demo", &lonely, "10.3.0.0/24").await;
    let p = t.make("demo", "port", "/v2.0/ports", json!({"network_id": lonely["id"]})).await;
    let (status, body) =
        t.post("demo", "/v2.0/floatingips", json!({"floatingip": {"floating_network_id": x.public, "port_id": p["id"]}})).await;
    assert_eq!((status, kind(&body)), (404, "ExternalGatewayForFloatingIPNotFound"));
    let router = format!("/v2.0/routers/{}", id(&x.router));
    for (nexthop, status) in [("10.0.0.77", 200), ("10.7.0.1", 400), ("10.0.0.1", 400)] {
        let routes = json!({"router": {"routes": [{"destination": "192.168.0.0/24", "nexthop": nexthop}]}});
        assert_eq!(t.put("demo", &router, routes).await.0, status, "{nexthop}");
    }
    let legs = format!("/v2.0/ports?device_id={}&device_owner=network:router_interface", id(&x.router));
    let (_, legs) = t.get("demo", &legs).await;
    let (status, body) = t.call("demo", http::Method::DELETE, &format!("/v2.0/ports/{}", id(&legs["ports"][0])), None).await;
    assert_eq!((status, kind(&body)), (409, "ServicePortInUse"));
    assert_eq!(
        t.put("demo", &router, json!({"router": {"external_gateway_info": {"network_id": x.public, "enable_snat": false}}})).await.0,
        403
    );
}

#[tokio::test]
async fn security_groups_and_their_rules() {
    let t = net().await;
    let g = t.make("demo", "security_group", "/v2.0/security-groups", json!({"name": "web"})).await;
    assert_eq!(g["security_group_rules"].as_array().unwrap().len(), 2);
    let rule = json!({"security_group_id": g["id"], "direction": "ingress", "protocol": "tcp", "port_range_min": 80, "port_range_max": 80});
    let r = t.make("demo", "security_group_rule", "/v2.0/security-group-rules", rule.clone()).await;
    let (status, body) = t.post("demo", "/v2.0/security-group-rules", json!({"security_group_rule": rule})).await;
    assert_eq!((status, kind(&body)), (409, "SecurityGroupRuleExists"));
    let other = json!({"security_group_rule": {"security_group_id": g["id"], "direction": "ingress"}});
    assert_eq!(t.post("other", "/v2.0/security-group-rules", other).await.0, 404);
    assert_eq!(t.delete("other", &format!("/v2.0/security-group-rules/{}", id(&r))).await, 404);
    let n = t.network("demo").await;
    t.subnet("demo", &n, "10.0.0.0/24").await;
    let attrs = json!({"network_id": n["id"], "binding:host_id": "host1", "security_groups": [g["id"]], "project_id": DEMO});
    let p = t.make("admin", "port", "/v2.0/ports", attrs).await;
    t.service.settled().await;
    assert_eq!(t.plane.state().ports[id(&p)].rules.len(), 3);
    assert_eq!(t.delete("demo", &format!("/v2.0/security-group-rules/{}", id(&r))).await, 204);
    t.service.settled().await;
    assert_eq!(t.plane.state().ports[id(&p)].rules.len(), 2);
    let (status, body) = t.call("demo", http::Method::DELETE, &format!("/v2.0/security-groups/{}", id(&g)), None).await;
    assert_eq!((status, kind(&body)), (409, "SecurityGroupInUse"));
    assert_eq!(t.put("demo", &format!("/v2.0/ports/{}", id(&p)), json!({"port": {"security_groups": []}})).await.0, 200);
    assert_eq!(t.delete("demo", &format!("/v2.0/security-groups/{}", id(&g))).await, 204);
    assert_eq!(t.post("demo", "/v2.0/security-groups", json!({"security_group": {"name": "default"}})).await.0, 409);
    let (_, list) = t.get("demo", "/v2.0/security-groups?name=default").await;
    let default = &list["security_groups"][0];
    assert_eq!(default["security_group_rules"].as_array().unwrap().len(), 4);
    let (status, _) = t.call("demo", http::Method::DELETE, &format!("/v2.0/security-groups/{}", id(default)), None).await;
    assert_eq!(status, 409);
    let (_, rules) = t.get("demo", "/v2.0/security-group-rules?direction=egress").await;
    assert_eq!(rules["security_group_rules"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn rbac_opens_a_network_to_one_project() {
    let t = net().await;
    let n = t.network("demo").await;
    let path = format!("/v2.0/networks/{}", id(&n));
    assert_eq!(t.get("other", &path).await.0, 404);
    let attrs = json!({"object_type": "network", "object_id": n["id"], "target_tenant": OTHER, "action": "access_as_shared"});
    assert_eq!(t.post("other", "/v2.0/rbac-policies", json!({"rbac_policy": attrs})).await.0, 404);
    let everybody = json!({"object_type": "network", "object_id": n["id"], "target_tenant": "*", "action": "access_as_shared"});
    assert_eq!(t.post("demo", "/v2.0/rbac-policies", json!({"rbac_policy": everybody})).await.0, 403);
    let policy = t.make("demo", "rbac_policy", "/v2.0/rbac-policies", attrs).await;
    let (status, body) = t.get("other", &path).await;
    assert_eq!((status, &body["network"]["shared"]), (200, &json!(true)));
    assert_eq!(t.put("other", &path, json!({"network": {"name": "mine"}})).await.0, 403);
    let p = t.make("other", "port", "/v2.0/ports", json!({"network_id": n["id"]})).await;
    let (status, body) = t.call("demo", http::Method::DELETE, &format!("/v2.0/rbac-policies/{}", id(&policy)), None).await;
    assert_eq!((status, kind(&body)), (409, "RbacPolicyInUse"));
    // The network's owner sees and may remove ports on it.
    assert_eq!(t.delete("demo", &format!("/v2.0/ports/{}", id(&p))).await, 204);
    assert_eq!(t.delete("demo", &format!("/v2.0/rbac-policies/{}", id(&policy))).await, 204);
    assert_eq!(t.get("other", &path).await.0, 404);
}

#[tokio::test]
async fn external_networks_are_seen_but_not_plugged_into() {
    let t = net().await;
    let public = t.public().await;
    assert_eq!(t.public().await, public);
    let (status, body) = t.get("demo", &format!("/v2.0/networks/{public}")).await;
    assert_eq!((status, &body["network"]["router:external"]), (200, &json!(true)));
    let (_, list) = t.get("demo", "/v2.0/networks?router:external=True").await;
    assert_eq!(list["networks"].as_array().unwrap().len(), 1);
    let (_, subnets) = t.get("demo", "/v2.0/subnets").await;
    assert_eq!(subnets["subnets"], json!([]));
    assert_eq!(t.post("demo", "/v2.0/ports", json!({"port": {"network_id": public}})).await.0, 403);
    assert_eq!(t.delete("demo", &format!("/v2.0/networks/{public}")).await, 403);
    let sub = json!({"subnet": {"network_id": public, "cidr": "10.0.0.0/24", "ip_version": 4}});
    assert_eq!(t.post("demo", "/v2.0/subnets", sub).await.0, 403);
}

#[tokio::test]
async fn quotas_and_tags() {
    let t = net().await;
    let quota = format!("/v2.0/quotas/{DEMO}");
    assert_eq!(t.put("demo", &quota, json!({"quota": {"network": 1}})).await.0, 403);
    let (status, body) = t.put("admin", &quota, json!({"quota": {"network": 1}})).await;
    assert_eq!((status, &body["quota"]["network"]), (200, &json!(1)));
    let n = t.network("demo").await;
    let (status, body) = t.post("demo", "/v2.0/networks", json!({"network": {}})).await;
    assert_eq!((status, kind(&body)), (409, "OverQuota"));
    let (_, d) = t.get("demo", &format!("{quota}/details")).await;
    assert_eq!(d["quota"]["network"], json!({"limit": 1, "used": 1, "reserved": 0}));
    assert_eq!(t.get("other", &quota).await.0, 403);
    assert_eq!(t.delete("admin", &quota).await, 204);
    let tags = format!("/v2.0/networks/{}/tags", id(&n));
    assert_eq!(t.put("demo", &tags, json!({"tags": ["red", "blue"]})).await.1, json!({"tags": ["red", "blue"]}));
    assert_eq!(t.put("demo", &format!("{tags}/green"), Value::Null).await.0, 201);
    assert_eq!(t.get("demo", &format!("{tags}/green")).await.0, 204);
    assert_eq!(t.get("demo", &format!("{tags}/pink")).await.0, 404);
    for (q, n) in [("tags=red,blue", 1), ("tags=red,pink", 0), ("tags-any=red,pink", 1), ("not-tags=red", 0), ("not-tags-any=pink", 1)] {
        let (_, l) = t.get("demo", &format!("/v2.0/networks?{q}")).await;
        assert_eq!(l["networks"].as_array().unwrap().len(), n, "{q}");
    }
    assert_eq!(t.delete("demo", &format!("{tags}/red")).await, 204);
    assert_eq!(t.delete("other", &tags).await, 404);
    assert_eq!(t.delete("demo", &tags).await, 204);
    assert_eq!(t.get("demo", &tags).await.1, json!({"tags": []}));
    for path in ["/v2.0/agents", "/v2.0/network-ip-availabilities"] {
        let count = |v: &Value| v.as_object().unwrap().values().next().unwrap().as_array().unwrap().len();
        assert!(count(&t.get("admin", path).await.1) > 0, "{path}");
        assert_eq!(count(&t.get("demo", path).await.1), 0, "{path}");
    }
}

#[tokio::test]
async fn an_administrator_moves_networks_and_routers_off_their_agents() {
    let t = net().await;
    let x = topology(&t).await;
    let agent = |kind: &str| {
        let path = format!("/v2.0/agents?agent_type={}", kind.replace(' ', "%20"));
        let t = &t;
        async move { t.get("admin", &path).await.1["agents"][0]["id"].as_str().unwrap().to_string() }
    };
    let (dhcp, l3) = (agent("DHCP Agent").await, agent("L3 agent").await);
    let network = id(&x.network);
    assert_eq!(t.delete("demo", &format!("/v2.0/agents/{dhcp}/dhcp-networks/{network}")).await, 403);
    assert_eq!(t.delete("admin", &format!("/v2.0/agents/{dhcp}/dhcp-networks/{network}")).await, 204);
    assert_eq!(t.delete("admin", &format!("/v2.0/agents/{l3}/l3-routers/{}", id(&x.router))).await, 204);
    t.service.settled().await;
    assert!(t.plane.state().networks[network].dhcp.is_none());
    assert!(t.plane.state().routers.is_empty());
    let (status, _) = t.post("admin", &format!("/v2.0/agents/{dhcp}/dhcp-networks"), json!({"network_id": network})).await;
    assert_eq!(status, 201);
    assert_eq!(t.post("admin", &format!("/v2.0/agents/{l3}/l3-routers"), json!({"router_id": id(&x.router)})).await.0, 201);
    assert_eq!(t.post("admin", &format!("/v2.0/agents/{l3}/l3-routers"), json!({"router_id": id(&x.router)})).await.0, 409);
    t.service.settled().await;
    assert!(t.plane.state().networks[network].dhcp.is_some());
    assert_eq!(t.plane.state().routers.len(), 1);
}
