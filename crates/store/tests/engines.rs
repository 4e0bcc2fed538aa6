//! The same suite on every engine.

use caelum_base::ErrorKind;
use caelum_store::{Db, Dir, Filter, Migration, Query, Record, Table, Value, params, testing};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "init",
        sql: "-- things\nCREATE TABLE things (id TEXT PRIMARY KEY, name TEXT NOT NULL, project_id TEXT NOT NULL, size BIGINT NOT NULL, parent TEXT, generation BIGINT NOT NULL, body TEXT NOT NULL);\nCREATE UNIQUE INDEX things_name ON things (project_id, name);\nCREATE TABLE blobs (id TEXT PRIMARY KEY, data BLOB);",
    },
    Migration { version: 2, name: "index", sql: "CREATE INDEX things_project ON things (project_id, size);" },
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Thing {
    id: String,
    name: String,
    project_id: String,
    size: i64,
    parent: Option<String>,
}

impl Record for Thing {
    const TABLE: Table = Table { name: "things", columns: &["name", "project_id", "size", "parent"] };
    fn id(&self) -> &str {
        &self.id
    }
    fn columns(&self) -> Vec<Value> {
        vec![(&self.name).into(), (&self.project_id).into(), self.size.into(), (&self.parent).into()]
    }
}

fn thing(id: &str, name: &str, size: i64) -> Thing {
    Thing { id: id.into(), name: name.into(), project_id: "p".into(), size, parent: None }
}

async fn fill(db: &Db, things: Vec<Thing>) {
    db.write(move |tx| things.iter().try_for_each(|t| tx.insert(t).map(drop))).await.expect("fill");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_generations_and_conflicts() {
    for db in testing::engines("t_records", MIGRATIONS).await.expect("open") {
        fill(&db, vec![thing("a", "one", 1)]).await;
        let mut first = db.get::<Thing>("a").await.expect("get").expect("there");
        let second = first.clone();
        first.size = 7;
        let done = db
            .write(move |tx| {
                let mut t = first.clone();
                tx.update(&mut t)?;
                Ok(t)
            })
            .await
            .expect("update");
        assert_eq!((done.size, done.generation), (7, 2));
        let stale = db.write(move |tx| tx.update(&mut second.clone())).await.expect_err("stale");
        assert_eq!(stale.kind, ErrorKind::Generation);
        // A duplicate does not spoil the transaction it happens in.
        db.write(|tx| {
            let e = tx.insert(&thing("b", "one", 1)).expect_err("duplicate");
            assert_eq!((e.kind, e.code), (ErrorKind::Conflict, "duplicate"));
            tx.insert(&thing("b", "two", 1)).map(drop)
        })
        .await
        .expect("goes on");
        assert!(db.write(|tx| tx.delete_id::<Thing>("a")).await.expect("delete"));
        assert!(db.get::<Thing>("a").await.expect("get").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_leaves_nothing() {
    for db in testing::engines("t_rollback", MIGRATIONS).await.expect("open") {
        let e = db
            .write::<(), _>(|tx| {
                tx.insert(&thing("a", "one", 1))?;
                Err(caelum_base::Error::invalid("no"))
            })
            .await
            .expect_err("fails");
        assert_eq!(e.kind, ErrorKind::Invalid);
        assert!(db.get::<Thing>("a").await.expect("get").is_none());
        let e = db.read(|tx| tx.exec("DELETE FROM things", &[])).await.expect_err("read only");
        assert_eq!(e.kind, ErrorKind::Internal);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_sorting_and_paging_cover_every_row_once() {
    for db in testing::engines("t_paging", MIGRATIONS).await.expect("open") {
        let all: Vec<Thing> = (0..25).map(|i| thing(&format!("id{i:02}"), &format!("N{}", 24 - i), i % 3)).collect();
        fill(&db, all).await;
        for (dir, reverse) in [(Dir::Asc, false), (Dir::Desc, false), (Dir::Asc, true)] {
            let mut seen = Vec::new();
            let mut marker = None;
            loop {
                let mut q = Query::new().sort("size", dir).sort("name", Dir::Asc).limit(4).marker(marker.clone());
                q.reverse = reverse;
                let page = db.list::<Thing>(q).await.expect("page");
                let ids: Vec<String> = page.iter().map(|t| t.id.clone()).collect();
                marker = if reverse { ids.first().cloned() } else { ids.last().cloned() };
                if ids.is_empty() {
                    break;
                }
                seen.extend(ids);
            }
            let mut unique = seen.clone();
            unique.sort();
            unique.dedup();
            assert_eq!((seen.len(), unique.len()), (25, 25));
        }
        let q = Query::new().sort("name", Dir::Asc);
        let names: Vec<String> = db.list::<Thing>(q).await.expect("list").iter().map(|t| t.name.clone()).collect();
        let mut bytewise = names.clone();
        bytewise.sort();
        assert_eq!(names, bytewise, "text sorts by bytes on both engines");
        let q = Query::new()
            .filter(Filter::Any(vec![Filter::Eq("size", 1.into()), Filter::Prefix("name", "N2".into())]))
            .filter(Filter::IsNull("parent"));
        let n = db.read(move |tx| tx.count::<Thing>(&q)).await.expect("count");
        assert_eq!(n, 11);
        let n = db.read(|tx| tx.sum::<Thing>("size", &Query::new().is_in("size", [1, 2]))).await.expect("sum");
        assert_eq!(n, 24);
        let e = db.list::<Thing>(Query::new().marker(Some("nope".into()))).await.expect_err("marker");
        assert_eq!(e.kind, ErrorKind::Invalid);
        let none = db.list::<Thing>(Query::new().filter(Filter::Contains("name", "%".into()))).await.expect("like");
        assert!(none.is_empty(), "% in a filter is a plain character");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_increments_are_not_lost() {
    for db in testing::engines("t_concurrent", MIGRATIONS).await.expect("open") {
        fill(&db, vec![thing("a", "one", 0)]).await;
        let woken = Arc::new(AtomicU32::new(0));
        let mut tasks = Vec::new();
        for _ in 0..40 {
            let (db, woken) = (db.clone(), woken.clone());
            tasks.push(tokio::spawn(async move {
                db.write(move |tx| {
                    let mut t = tx.require::<Thing>("Thing", "a")?;
                    t.size += 1;
                    tx.update(&mut t)?;
                    let woken = woken.clone();
                    tx.after_commit(move || {
                        woken.fetch_add(1, Ordering::SeqCst);
                    });
                    Ok(())
                })
                .await
            }));
        }
        for t in tasks {
            t.await.expect("task").expect("increment");
        }
        assert_eq!(db.get::<Thing>("a").await.expect("get").expect("there").size, 40);
        assert_eq!(woken.load(Ordering::SeqCst), 40);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_sql_and_blobs() {
    for db in testing::engines("t_blobs", MIGRATIONS).await.expect("open") {
        db.write(|tx| tx.exec("INSERT INTO blobs (id, data) VALUES ($1, $2)", params!["x", vec![0u8, 255]])).await.expect("insert");
        let row = db.read(|tx| tx.query_opt("SELECT data FROM blobs WHERE id = $1", params!["x"])).await.expect("read");
        assert_eq!(row.expect("row").blob("data").expect("blob"), vec![0, 255]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_database_survives_reopening() {
    let dir = tempfile::tempdir().expect("dir");
    let url = caelum_store::StoreUrl::parse(&format!("sqlite:{}", dir.path().display())).expect("url");
    let db = Db::open(&url, "t_file", MIGRATIONS).await.expect("open");
    fill(&db, vec![thing("a", "one", 0)]).await;
    drop(db);
    let db = Db::open(&url, "t_file", MIGRATIONS).await.expect("again");
    assert!(db.get::<Thing>("a").await.expect("get").is_some());
    let older = Db::open(&url, "t_file", &MIGRATIONS[..1]).await.err().expect("newer schema");
    assert_eq!(older.kind, ErrorKind::Unavailable);
}
