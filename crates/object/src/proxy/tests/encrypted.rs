//! Encryption before erasure coding.

use super::real::{EC_SEGMENT, Real, document, pattern};
use super::*;
use crate::http::{Ranges, content_range};
use crate::middleware::crypto::{Encryption, Keymaster};

fn encrypted() -> Real {
    // A busy machine's disks may take longer than the other tests wait.
    let mut c = Real::with(ProxyOptions::default());
    let secret = [("encryption_root_secret", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")];
    let keymaster = Arc::new(Keymaster::from_options(secret).unwrap());
    c.front = Arc::new(Encryption::new(c.proxy.clone(), keymaster, Env::system()));
    c
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_of_what_is_encrypted() {
    let c = encrypted();
    let segment = usize::try_from(EC_SEGMENT).unwrap();
    assert_eq!(c.call("PUT", "/v1/a/e", &[("x-storage-policy", "ec")], "").await.status, 201);
    for size in [0, 1, segment, 3 * segment + 77] {
        let (data, path) = (pattern(size), format!("/v1/a/e/o{size}"));
        let etag = caelum_swiftkit::md5_hex(&data);
        let put = c.call("PUT", &path, &[("x-object-meta-my_key", "v"), ("content-type", "a/b"), ("etag", &etag)], data.clone()).await;
        assert_eq!((put.status, put.header("etag")), (201, Some(etag.as_str())), "{size}");
        let get = c.call("GET", &path, &[], "").await;
        assert_eq!((get.status, get.body == data, get.header("x-object-meta-my_key")), (200, true, Some("v")), "{size}");
        let head = c.call("HEAD", &path, &[], "").await;
        assert_eq!((head.header("etag"), head.header("content-length")), (Some(etag.as_str()), Some(size.to_string().as_str())));
        assert_eq!(c.call("GET", &path, &[("if-none-match", &etag)], "").await.status, 304);
        assert_eq!(c.call("GET", &path, &[("if-match", "x"), ("range", "bytes=0-1")], "").await.status, 412);
        for range in ["0-0", "3-20", "65530-65541", "65536-", "131071-131072", "-1", "-70000", "100000-9999999"] {
            let get = c.call("GET", &path, &[("range", &format!("bytes={range}")), ("if-match", &etag)], "").await;
            let plain = c.call("GET", &path, &[("range", &format!("bytes={range}"))], "").await;
            let want = Ranges::parse(&format!("bytes={range}")).unwrap().for_length(size as u64);
            assert_eq!((get.status, &get.body), (plain.status, &plain.body), "{size} {range}");
            match want.first() {
                None => assert_eq!(plain.status, 416, "{size} {range}"),
                Some(_) if size == 0 => assert_eq!(plain.status, 200),
                Some((a, b)) => {
                    assert!(plain.status == 206 && plain.body == data.slice(*a as usize..*b as usize), "{size} {range}");
                    assert_eq!(plain.header("content-range"), Some(content_range((*a, *b), size as u64).as_str()));
                }
            }
        }
    }
    let (path, data) = (format!("/v1/a/e/o{}", 3 * segment + 77), pattern(3 * segment + 77));
    let several = c.call("GET", &path, &[("range", "bytes=1-5,65530-70000,-9")], "").await;
    let head = |a: usize, b: usize| format!("--BOUNDARY\r\nContent-Type: a/b\r\nContent-Range: bytes {a}-{b}/{}\r\n\r\n", data.len());
    let n = data.len();
    let mut want = Vec::new();
    for (a, b) in [(1, 5), (65_530, 70_000), (n - 9, n - 1)] {
        want.extend([head(a, b).as_bytes(), &data[a..=b], b"\r\n"].concat());
    }
    want.extend(b"--BOUNDARY--");
    assert!(several.status == 206 && document(&several) == want);

    assert_eq!(c.call("POST", &path, &[("x-object-meta-new_key", "w")], "").await.status, 202);
    let get = c.call("GET", &path, &[("range", "bytes=-1")], "").await;
    assert_eq!((get.header("x-object-meta-my_key"), get.header("x-object-meta-new_key")), (None, Some("w")));

    // Nothing plain on the disks, and two of five fragments may be lost.
    let files = c.data_files("objects-1");
    for f in &files {
        let bytes = std::fs::read(f).unwrap();
        assert!(!bytes.windows(32).any(|w| w == &data[..32] || w == &data[segment..segment + 32]), "{f:?}");
    }
    let gone: Vec<_> = files.iter().filter(|f| f.starts_with(c.dir.path().join("n0")) || f.starts_with(c.dir.path().join("n1"))).collect();
    gone.iter().for_each(|f| std::fs::remove_file(f).unwrap());
    assert!(gone.len() >= 4 && c.call("GET", &path, &[], "").await.body == data);
    assert!(c.call("GET", &path, &[("range", "bytes=65535-65536")], "").await.body == data.slice(65_535..65_537));
}
