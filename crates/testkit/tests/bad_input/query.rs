//! Every reading operation × query strings that ask for trouble.

use super::common::{ask, estate, operations, title};
use super::{HANG, alive, wrong};
use caelum_testkit::TestCloud;
use http::Method;
use std::sync::Arc;

const QUERIES: &[&str] = &[
    "limit=-1",
    "limit=0",
    "limit=9223372036854775808",
    "limit=9223372036854775807",
    "limit=1.5",
    "limit=many",
    "limit=%00",
    "marker=7f3e1c52-1111-4000-8000-000000000000",
    "marker=%00",
    "marker=%27%20OR%201%3D1--",
    "offset=-1&limit=1",
    "offset=9223372036854775807",
    "sort_key=password_hash",
    "sort_key=id%3Bdrop&sort_dir=sideways",
    "sort=rowid:desc,x:y,:::",
    "sort=%00",
    "fields=password&fields=%00",
    "name=%25",
    "name=_%25_",
    "name=(a%2B)%2B%24",
    "name=%00",
    "name~=(a%2B)%2B%24&ip=(a%2B)%2B%24&host=(a%2B)%2B%24",
    "all_tenants=1&all_projects=1",
    "all_tenants=perhaps",
    "changes-since=never&changes-before=9999-99-99T99:99:99Z",
    "changes-since=0000-00-00T00:00:00Z",
    "created_at=gt:never&updated_at=lt:",
    "created_at=gt:9999-12-31T23:59:60Z",
    "metadata={&metadata=%7B%27a%27%3A",
    "status=&status=active&status=x",
    "a=%ff",
    "%ff=a",
    "&&&===&?",
    "resources=VCPU:-1&required=!!&member_of=in:",
    "resources=VCPU:99999999999999999999&group_policy=x&limit=x",
    "resources1=VCPU:1&resources2=VCPU:1&group_policy=maybe&in_tree=x",
    "start=never&end=9999&detailed=x",
    "fixed_ips=ip_address%3D&fixed_ips=%00&ip_address=999",
    "tags=%00,,,&tags-any=&not-tags=%25",
    "size_min=x&size_max=-1&visibility=x&member_status=x",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_query_breaks_a_read() {
    let cloud = Arc::new(TestCloud::start().await.expect("cloud"));
    let admin = cloud.bootstrap_token("admin").await;
    let things = Arc::new(estate(&cloud, &admin, &admin, "query").await);
    let reads: Vec<_> = operations().await.iter().filter(|o| o.method == Method::GET).collect();
    let mut workers = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (cloud, admin, things) = (cloud.clone(), admin.clone(), things.clone());
        let mine: Vec<_> = reads.iter().skip(n).step_by(4).copied().collect();
        workers.spawn(async move {
            let mut findings = Vec::new();
            for op in mine {
                for q in QUERIES {
                    let path = format!("{}?{q}", things.fill(op).0);
                    let answer = tokio::time::timeout(HANG, ask(&cloud, op, &path, &admin, None)).await;
                    findings.extend(wrong(answer).map(|w| format!("{} ?{q}: {w}", title(op))));
                }
            }
            findings
        });
    }
    let findings: Vec<String> = workers.join_all().await.into_iter().flatten().collect();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
    alive(&cloud).await;
    Arc::into_inner(cloud).expect("the workers are done").stop().await;
}
