//! Content types by file name suffix, for uploads that name none: what upstream's proxy guesses, which reads files of
//! types as Python's `mimetypes` does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Files of types that Python's `mimetypes` looks for; the last one that names a suffix counts.
const KNOWN_FILES: [&str; 8] = [
    "/etc/mime.types",
    "/etc/httpd/mime.types",
    "/etc/httpd/conf/mime.types",
    "/etc/apache/mime.types",
    "/etc/apache2/mime.types",
    "/usr/local/etc/httpd/conf/mime.types",
    "/usr/local/lib/netscape/mime.types",
    "/usr/local/etc/mime.types",
];
const MAX_FILE: u64 = 4 << 20;

/// Types of files, by suffix.
static LEARNT: OnceLock<HashMap<String, String>> = OnceLock::new();

/// Lines of a type and its suffixes; `#` begins a comment.
fn read_types(text: &str, into: &mut HashMap<String, String>) {
    for line in text.lines() {
        let mut words = line.split_whitespace().take_while(|w| !w.starts_with('#'));
        let Some(kind) = words.next().filter(|k| http::HeaderValue::from_str(k).is_ok()) else { continue };
        into.extend(words.map(|suffix| (suffix.to_string(), kind.to_string())));
    }
}

/// Reads the files of types that a Swift proxy on this host reads, once for the process: the system's and
/// `mime.types` in its own directory. Blocks.
pub fn learn_types(swift_dir: &Path) {
    let mut all = HashMap::new();
    for file in KNOWN_FILES.iter().map(PathBuf::from).chain([swift_dir.join("mime.types")]) {
        if std::fs::metadata(&file).is_ok_and(|m| m.len() <= MAX_FILE)
            && let Ok(bytes) = std::fs::read(&file)
        {
            read_types(&String::from_utf8_lossy(&bytes), &mut all);
        }
    }
    // A second proxy in one process has the first one's.
    let _ = LEARNT.set(all);
}

/// Suffix in lower case and type, sorted by suffix.
const TYPES: &[(&str, &str)] = &[
    ("3g2", "audio/3gpp2"),
    ("3gp", "audio/3gpp"),
    ("3gpp", "audio/3gpp"),
    ("3gpp2", "audio/3gpp2"),
    ("a", "application/octet-stream"),
    ("aac", "audio/aac"),
    ("adts", "audio/aac"),
    ("ai", "application/postscript"),
    ("aif", "audio/x-aiff"),
    ("aifc", "audio/x-aiff"),
    ("aiff", "audio/x-aiff"),
    ("ass", "audio/aac"),
    ("au", "audio/basic"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bat", "text/plain"),
    ("bcpio", "application/x-bcpio"),
    ("bin", "application/octet-stream"),
    ("bmp", "image/bmp"),
    ("c", "text/plain"),
    ("cdf", "application/x-netcdf"),
    ("cpio", "application/x-cpio"),
    ("csh", "application/x-csh"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("dll", "application/octet-stream"),
    ("doc", "application/msword"),
    ("dot", "application/msword"),
    ("dvi", "application/x-dvi"),
    ("eml", "message/rfc822"),
    ("eps", "application/postscript"),
    ("etx", "text/x-setext"),
    ("exe", "application/octet-stream"),
    ("gif", "image/gif"),
    ("gtar", "application/x-gtar"),
    ("h", "text/plain"),
    ("h5", "application/x-hdf5"),
    ("hdf", "application/x-hdf"),
    ("heic", "image/heic"),
    ("heif", "image/heif"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ief", "image/ief"),
    ("jpe", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "application/javascript"),
    ("json", "application/json"),
    ("ksh", "text/plain"),
    ("latex", "application/x-latex"),
    ("loas", "audio/aac"),
    ("m1v", "video/mpeg"),
    ("m3u", "application/vnd.apple.mpegurl"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("man", "application/x-troff-man"),
    ("me", "application/x-troff-me"),
    ("mht", "message/rfc822"),
    ("mhtml", "message/rfc822"),
    ("mif", "application/x-mif"),
    ("mjs", "application/javascript"),
    ("mov", "video/quicktime"),
    ("movie", "video/x-sgi-movie"),
    ("mp2", "audio/mpeg"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpa", "video/mpeg"),
    ("mpe", "video/mpeg"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("ms", "application/x-troff-ms"),
    ("n3", "text/n3"),
    ("nc", "application/x-netcdf"),
    ("nq", "application/n-quads"),
    ("nt", "application/n-triples"),
    ("nws", "message/rfc822"),
    ("o", "application/octet-stream"),
    ("obj", "application/octet-stream"),
    ("oda", "application/oda"),
    ("opus", "audio/opus"),
    ("p12", "application/x-pkcs12"),
    ("p7c", "application/pkcs7-mime"),
    ("pbm", "image/x-portable-bitmap"),
    ("pdf", "application/pdf"),
    ("pfx", "application/x-pkcs12"),
    ("pgm", "image/x-portable-graymap"),
    ("pl", "text/plain"),
    ("png", "image/png"),
    ("pnm", "image/x-portable-anymap"),
    ("pot", "application/vnd.ms-powerpoint"),
    ("ppa", "application/vnd.ms-powerpoint"),
    ("ppm", "image/x-portable-pixmap"),
    ("pps", "application/vnd.ms-powerpoint"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("ps", "application/postscript"),
    ("pwz", "application/vnd.ms-powerpoint"),
    ("py", "text/x-python"),
    ("pyc", "application/x-python-code"),
    ("pyo", "application/x-python-code"),
    ("qt", "video/quicktime"),
    ("ra", "audio/x-pn-realaudio"),
    ("ram", "application/x-pn-realaudio"),
    ("ras", "image/x-cmu-raster"),
    ("rdf", "application/xml"),
    ("rgb", "image/x-rgb"),
    ("roff", "application/x-troff"),
    ("rtx", "text/richtext"),
    ("sgm", "text/x-sgml"),
    ("sgml", "text/x-sgml"),
    ("sh", "application/x-sh"),
    ("shar", "application/x-shar"),
    ("snd", "audio/basic"),
    ("so", "application/octet-stream"),
    ("src", "application/x-wais-source"),
    ("srt", "text/plain"),
    ("sv4cpio", "application/x-sv4cpio"),
    ("sv4crc", "application/x-sv4crc"),
    ("svg", "image/svg+xml"),
    ("swf", "application/x-shockwave-flash"),
    ("t", "application/x-troff"),
    ("tar", "application/x-tar"),
    ("tcl", "application/x-tcl"),
    ("tex", "application/x-tex"),
    ("texi", "application/x-texinfo"),
    ("texinfo", "application/x-texinfo"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("tr", "application/x-troff"),
    ("trig", "application/trig"),
    ("tsv", "text/tab-separated-values"),
    ("txt", "text/plain"),
    ("ustar", "application/x-ustar"),
    ("vcf", "text/x-vcard"),
    ("vtt", "text/vtt"),
    ("wasm", "application/wasm"),
    ("wav", "audio/x-wav"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("wiz", "application/msword"),
    ("wsdl", "application/xml"),
    ("xbm", "image/x-xbitmap"),
    ("xlb", "application/vnd.ms-excel"),
    ("xls", "application/vnd.ms-excel"),
    ("xml", "text/xml"),
    ("xpdl", "application/xml"),
    ("xpm", "image/x-xpixmap"),
    ("xsl", "application/xml"),
    ("xwd", "image/x-xwindowdump"),
    ("zip", "application/zip"),
];

/// Suffixes that stand for a compression; what is before them tells the type.
const COMPRESSIONS: &[&str] = &["br", "bz2", "gz", "xz", "z"];

/// Short forms of two suffixes.
const SHORT: &[(&str, &str)] =
    &[("svgz", "svg.gz"), ("taz", "tar.gz"), ("tbz2", "tar.bz2"), ("tgz", "tar.gz"), ("txz", "tar.xz"), ("tz", "tar.gz")];

/// The type of an object by its name.
pub(crate) fn guess(name: &str) -> &'static str {
    let base = name.rsplit('/').next().unwrap_or_default();
    let mut lower = base.to_ascii_lowercase();
    if let Some((short, long)) = SHORT.iter().find(|(s, _)| lower.ends_with(&format!(".{s}"))) {
        lower.truncate(lower.len() - short.len());
        lower.push_str(long);
    }
    let lower = lower.trim_start_matches('.');
    let (mut stem, mut suffix) = lower.rsplit_once('.').unwrap_or((lower, ""));
    if COMPRESSIONS.contains(&suffix) {
        (stem, suffix) = stem.rsplit_once('.').unwrap_or((stem, ""));
    }
    let _ = stem;
    if let Some(known) = LEARNT.get().and_then(|all| all.get(suffix)) {
        return known;
    }
    TYPES.binary_search_by_key(&suffix, |(s, _)| s).ok().and_then(|i| TYPES.get(i)).map_or("application/octet-stream", |(_, t)| t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let mut all = HashMap::new();
        read_types("# text/x a\ntext/markdown\tmd markdown # nd\nimage/webp webp\nvideo/none\n\ntext/late md\n", &mut all);
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort();
        let want = [("markdown", "text/markdown"), ("md", "text/late"), ("webp", "image/webp")];
        assert_eq!(all, want.map(|(a, b)| (a.to_string(), b.to_string())));
    }

    #[test]
    fn types() {
        assert!(TYPES.windows(2).all(|w| w[0].0 < w[1].0));
        for (name, t) in [
            ("a/b.JPG", "image/jpeg"),
            ("x.tar.gz", "application/x-tar"),
            ("x.tgz", "application/x-tar"),
            ("page.html", "text/html"),
            ("none", "application/octet-stream"),
            (".txt", "application/octet-stream"),
            ("d.txt/x", "application/octet-stream"),
            ("x.unknown", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            assert_eq!(guess(name), t, "{name}");
        }
    }
}
