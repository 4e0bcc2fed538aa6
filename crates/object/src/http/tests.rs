use super::*;

#[test]
fn ranges_of_a_length() {
    let r = |t: &str, n| Ranges::parse(t).map(|r| r.for_length(n));
    assert_eq!(r("bytes=0-4", 10), Some(vec![(0, 5)]));
    assert_eq!(r("Bytes= 5-", 10), Some(vec![(5, 10)]));
    assert_eq!(r("bytes=-3", 10), Some(vec![(7, 10)]));
    assert_eq!(r("bytes=-30", 10), Some(vec![(0, 10)]));
    assert_eq!(r("bytes=-0", 10), Some(vec![]));
    assert_eq!(r("bytes=10-", 10), Some(vec![]));
    assert_eq!(r("bytes=0-1,20-30", 10), Some(vec![(0, 2)]));
    assert_eq!(r("bytes=9999999999999999999999-", 10), Some(vec![]));
    for bad in ["bytes=5-3", "bytes=-", "bytes=45", "bytes=a-", "byte=0-1", "bytes=--0", "bytes=1-+2", ""] {
        assert_eq!(Ranges::parse(bad), None, "{bad}");
    }
    assert_eq!(r("bytes=0-5,1-6,2-7", 10), Some(vec![]), "three overlaps");
    let many = |n: u64| format!("bytes={}", (0..n).map(|i| format!("{}-{}", i * 2, i * 2)).collect::<Vec<_>>().join(","));
    assert_eq!(r(&many(50), 1000).map(|v| v.len()), Some(50));
    assert_eq!(r(&many(51), 1000), Some(vec![]));
    assert_eq!(r("bytes=7-7,6-6,5-5,4-4,3-3,2-2,1-1,0-0", 10), Some(vec![]), "eight backwards");
    assert_eq!(Ranges::parse("bytes=0-1, -5").map(|r| r.header()), Some("bytes=0-1,-5".into()));
}

#[test]
fn accept_headers() {
    let formats = ["text/plain", "application/json", "application/xml", "text/xml"];
    let best = |a| best_match(a, &formats);
    assert_eq!(best(None), Ok(Some("text/plain")));
    assert_eq!(best(Some("application/json")), Ok(Some("application/json")));
    assert_eq!(best(Some("text/xml;q=0.5, application/xml")), Ok(Some("application/xml")));
    assert_eq!(best(Some("*/*")), Ok(Some("text/plain")));
    assert_eq!(best(Some("application/*")), Ok(Some("application/json")));
    assert_eq!(best(Some("image/png")), Ok(None));
    assert_eq!(best(Some("json")), Err(()));
    assert_eq!(best(Some("text/plain;q=1;q=0")), Err(()));
    let hostile = format!("text/plain;{}", "a=\"".repeat(20_000));
    assert_eq!(best(Some(&hostile)), Err(()));
}

#[test]
fn dates() {
    assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
        assert_eq!(parse_http_date(text), Some(784_111_777), "{text}");
    }
    assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(parse_http_date("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
    for bad in ["", "yesterday", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:49:37 GMT"] {
        assert_eq!(parse_http_date(bad), None, "{bad}");
    }
}

#[test]
fn pages() {
    let r = error(404);
    assert_eq!(r.headers()["content-type"], "text/html; charset=UTF-8");
    assert_eq!(r.headers()["content-length"], "70");
    assert_eq!(unauthorized("/v1/AUTH_a/c/o").headers()["www-authenticate"], "Swift realm=\"AUTH_a\"");
    assert_eq!(status_line(500), "500 Internal Error");
}

#[tokio::test]
async fn multipart_answers_have_the_length_they_announce() {
    use http_body_util::BodyExt;
    let ranges = vec![(0, 3), (5, 10)];
    let data = caelum_rest::full("abcfghij");
    let n = multipart_length(&ranges, "text/plain", "B", 20);
    let out = multipart_body(data, ranges, "text/plain".into(), "B".into(), 20).collect().await.unwrap().to_bytes();
    assert_eq!(out.len() as u64, n);
    assert_eq!(
        out,
        "--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-2/20\r\n\r\nabc\r\n\
         --B\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-9/20\r\n\r\nfghij\r\n--B--"
    );
    let short = multipart_body(caelum_rest::full("ab"), vec![(0, 3), (4, 5)], "t/p".into(), "B".into(), 20);
    assert!(short.collect().await.is_err());
}

#[tokio::test]
async fn body_lines_and_pieces() {
    let mut r = BodyReader::new(caelum_rest::full("ab\ncdef\n\nlast"));
    assert_eq!(r.line(100).await.unwrap(), Some(b"ab".to_vec()));
    assert_eq!(&r.take(2).await.unwrap()[..], b"cd");
    assert_eq!(r.line(100).await.unwrap(), Some(b"ef".to_vec()));
    assert_eq!(r.line(100).await.unwrap(), Some(b"".to_vec()));
    assert_eq!(r.line(100).await.unwrap(), Some(b"last".to_vec()));
    assert_eq!(r.line(100).await.unwrap(), None);
}

#[test]
fn reports() {
    let mut facts = serde_json::Map::new();
    facts.insert("Response Status".into(), "400 Bad Request".into());
    facts.insert("Number Deleted".into(), 2.into());
    let errors = [("a%20b".to_string(), "404 <x>".to_string())];
    assert_eq!(
        report("text/plain", &facts, &errors, "delete"),
        "Number Deleted: 2\nResponse Status: 400 Bad Request\nErrors:\na%20b, 404 <x>\n"
    );
    assert_eq!(
        report("text/xml", &facts, &errors, "delete"),
        "<delete>\n<number_deleted>2</number_deleted>\n<response_status>400 Bad Request</response_status>\n<errors>\n\
         <object><name>a%20b</name><status>404 &lt;x&gt;</status></object>\n</errors>\n</delete>\n"
    );
    let json: serde_json::Value = serde_json::from_str(&report("application/json", &facts, &errors, "delete")).unwrap();
    assert_eq!(json["Errors"][0][0], "a%20b");
}
