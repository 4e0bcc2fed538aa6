use super::super::reconstructor;
use super::*;
use caelum_erasure::Codec;
use caelum_swiftkit::md5_hex;

const T1: &str = "1700000001.00000";
const EC: (&str, &str) = ("X-Backend-Storage-Policy-Index", "1");

/// The fragment archives of an object of more than one segment.
fn archives(data: &[u8]) -> Vec<Vec<u8>> {
    let codec = Codec::new("isa_l_rs_vand", 2, 2).unwrap();
    let mut out = vec![Vec::new(); 4];
    for segment in data.chunks(1 << 20) {
        for (all, one) in out.iter_mut().zip(codec.encode(segment).unwrap()) {
            all.extend(one);
        }
    }
    out
}

async fn put(c: &Cluster, node: u32, name: &str, fragment: usize, archive: &[u8], data: &[u8]) {
    let (index, etag, length) = (fragment.to_string(), md5_hex(data), data.len().to_string());
    let headers = [
        EC,
        // As replication writes: beside another fragment of the same time.
        ("X-Backend-Replication", "True"),
        ("X-Backend-Ssync-Frag-Index", index.as_str()),
        ("X-Timestamp", T1),
        ("X-Object-Sysmeta-Ec-Frag-Index", index.as_str()),
        ("X-Object-Sysmeta-Ec-Etag", etag.as_str()),
        ("X-Object-Sysmeta-Ec-Content-Length", length.as_str()),
        ("X-Object-Sysmeta-Ec-Scheme", "isa_l_rs_vand 2+2"),
        ("X-Object-Sysmeta-Ec-Segment-Size", "1048576"),
    ];
    assert_eq!(c.send(node, "PUT", name, &headers, archive).await, 201);
}

#[tokio::test]
async fn lost_fragments_are_computed() {
    let c = Cluster::new(5, 3);
    let name = c.name("o");
    let data: Vec<u8> = (0..1_500_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 15) as u8).collect();
    let all = archives(&data);
    for node in [0, 2] {
        put(&c, node, &name, node as usize, &all[node as usize], &data).await;
    }
    let stats = reconstructor::run_once(&c.config(0)).await;
    assert_eq!(stats.failure, 0, "{stats:?}");
    for node in [1, 3] {
        let (code, headers, body) = c.get(node, &name, &[EC]).await;
        assert_eq!(code, 200, "node {node}");
        assert_eq!(headers["x-object-sysmeta-ec-frag-index"], node.to_string());
        assert_eq!(body, all[node as usize], "node {node}");
        assert_eq!(c.files(node, "objects-1", &name), [format!("{T1}#{node}#d.data")]);
    }
    let again = reconstructor::run_once(&c.config(0)).await;
    assert_eq!((again.suffix_sync, again.failure), (0, 0), "{again:?}");
}

#[tokio::test]
async fn fragments_go_where_they_belong() {
    let c = Cluster::new(5, 3);
    let name = c.name("o");
    let all = archives(b"some data");
    for node in [0, 2, 3] {
        put(&c, node, &name, node as usize, &all[node as usize], b"some data").await;
    }
    // On a handoff, and on a primary that has its own beside it.
    put(&c, 4, &name, 1, &all[1], b"some data").await;
    let stats = reconstructor::run_once(&c.config(4)).await;
    assert_eq!((stats.failure, stats.reverted, stats.removed_partitions), (0, 1, 1), "{stats:?}");
    assert_eq!(c.get(1, &name, &[EC]).await.2, all[1]);
    assert!(list(&c.dir.path().join("4/sd4/objects-1")).is_empty());
    put(&c, 3, &name, 1, &all[1], b"some data").await;
    let stats = reconstructor::run_once(&c.config(3)).await;
    assert_eq!((stats.failure, stats.reverted), (0, 1), "{stats:?}");
    assert_eq!(c.files(3, "objects-1", &name), [format!("{T1}#3#d.data")]);
}

#[tokio::test]
async fn too_few_fragments_send_nothing_wrong() {
    let c = Cluster::new(5, 3);
    let name = c.name("o");
    let all = archives(b"some data");
    put(&c, 0, &name, 0, &all[0], b"some data").await;
    reconstructor::run_once(&c.config(0)).await;
    for node in 1..4 {
        assert!(c.files(node, "objects-1", &name).is_empty());
    }
    assert_eq!(c.get(0, &name, &[EC]).await.2, all[0]);
}

#[tokio::test]
async fn tombstones_travel() {
    let c = Cluster::new(5, 3);
    let name = c.name("o");
    let all = archives(b"some data");
    for node in 0..4 {
        put(&c, node, &name, node as usize, &all[node as usize], b"some data").await;
    }
    assert_eq!(c.send(0, "DELETE", &name, &[EC, ("X-Timestamp", "1700000002.00000")], b"").await, 204);
    let stats = reconstructor::run_once(&c.config(0)).await;
    assert_eq!(stats.failure, 0, "{stats:?}");
    for node in 1..4 {
        assert_eq!(c.files(node, "objects-1", &name), ["1700000002.00000.ts"], "node {node}");
    }
}
