use super::world::world;
use serde_json::json;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn many_creates_at_once_stop_at_the_quota() {
    let w = Arc::new(world().await);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let w = w.clone();
            tokio::spawn(async move { w.call("member", "POST", "/v3/volumes", Some(json!({"volume": {"size": 1}}))).await })
        })
        .collect();
    let mut made = 0;
    for t in tasks {
        let (status, body) = t.await.unwrap();
        match status {
            202 => made += 1,
            413 => assert!(body["overLimit"]["message"].as_str().unwrap().starts_with("VolumeLimitExceeded"), "{body}"),
            _ => panic!("{status} {body}"),
        }
    }
    assert_eq!(made, 10);
    w.idle().await;
    assert_eq!(w.files().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_attachments_wins() {
    let w = Arc::new(world().await);
    let id = w.volume("member", json!({})).await;
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let (w, id) = (w.clone(), id.clone());
            tokio::spawn(async move {
                let server = format!("aaaaaaaa-0000-4000-8000-0000000000{n:02}");
                w.call("member", "POST", "/v3/attachments", Some(json!({"attachment": {"volume_uuid": id, "instance_uuid": server}})))
                    .await
                    .0
            })
        })
        .collect();
    let mut won = 0;
    for t in tasks {
        won += i32::from(t.await.unwrap() == 200);
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_wins_over_a_create_under_way() {
    let w = world().await;
    for _ in 0..8 {
        let (_, body) = w.call("member", "POST", "/v3/volumes", Some(json!({"volume": {"size": 1}}))).await;
        let path = format!("/v3/volumes/{}", body["volume"]["id"].as_str().unwrap());
        assert_eq!(w.call("member", "DELETE", &path, None).await.0, 202);
        assert_eq!(w.call("member", "DELETE", &path, None).await.0 / 100 % 2, 0);
    }
    w.idle().await;
    assert!(w.files().is_empty(), "{:?}", w.files());
    assert_eq!(w.call("member", "GET", "/v3/volumes", None).await.1["volumes"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_what_is_stuck_or_says_other_than_its_attachments() {
    let w = world().await;
    for (status, healed) in [("creating", "error"), ("in-use", "available")] {
        let id = w.volume("member", json!({})).await;
        let path = format!("/v3/volumes/{id}");
        let reset = json!({"os-reset_status": {"status": status}});
        assert_eq!(w.call("admin", "POST", &format!("{path}/action"), Some(reset)).await.0, 202);
        assert_eq!(w.service.audit(false).await.unwrap().len(), 1);
        assert_eq!(w.service.audit(true).await.unwrap().len(), 1);
        assert_eq!(w.service.audit(false).await.unwrap(), Vec::<String>::new());
        assert_eq!(w.call("member", "GET", &path, None).await.1["volume"]["status"], healed);
    }
}
