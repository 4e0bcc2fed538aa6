//! The pages that the layer writes itself. Everything that comes from names or metadata is escaped.

use super::super::common::{SLASH, SLASH_AND_COLON, escape_html, quote_set};
use super::Site;
use serde_json::Value;

/// `../` for each level of the prefix, unless the address is absolute.
fn css_path(css: &str, prefix: &str) -> String {
    if ["/", "http://", "https://"].iter().any(|s| css.starts_with(s)) {
        quote_set(css, SLASH_AND_COLON)
    } else {
        format!("{}{}", "../".repeat(prefix.matches('/').count()), quote_set(css, SLASH))
    }
}

fn style(site: &Site, prefix: &str, own: &str) -> String {
    match site.css.as_str() {
        "" => format!("  <style type=\"text/css\">\n{own}  </style>\n"),
        css => format!("  <link rel=\"stylesheet\" type=\"text/css\" href=\"{}\" />\n", css_path(css, prefix)),
    }
}

/// In place of a listing that the owner has not switched on.
pub fn disabled(site: &Site, label: &str, prefix: &str) -> String {
    let style = style(site, prefix, "   h1 {font-size: 1em; font-weight: bold;}\n   p {font-size: 2}\n");
    let mut page = format!(
        "<!DOCTYPE html>\n<html>\n<head>\n<title>Listing of {}</title>\n{style}</head>\n<body>  <h1>Web Listing Disabled</h1>   \
         <p>The owner of this web site has disabled web listing.   <p>If you are the owner of this web site, you can enable   \
         web listing by setting X-Container-Meta-Web-Listings.</p>",
        escape_html(label)
    );
    if !site.index.is_empty() {
        page.push_str(&format!(
            "<h1>Index File Not Found</h1> <p>The owner of this web site has set  <b>X-Container-Meta-Web-Index: {}</b>.  \
             However, this file is not found.</p>",
            escape_html(&site.index)
        ));
    }
    page.push_str(" </body>\n</html>\n");
    page
}

/// 1536 as `2Ki`.
fn human(bytes: u64) -> String {
    let (mut value, mut index) = (bytes as f64, None);
    let suffixes = ["K", "M", "G", "T", "P", "E", "Z", "Y"];
    while value >= 1024.0 && index.is_none_or(|i| i + 1 < suffixes.len()) {
        index = Some(index.map_or(0, |i| i + 1));
        value = (value / 1024.0).round_ties_even();
    }
    index.map_or_else(|| format!("{value:.0}"), |i| format!("{value:.0}{}i", suffixes[i]))
}

/// A link to a name in this folder. Dots are quoted too, so that `.` and `..` stay names.
fn link(name: &str, query: &str) -> String {
    format!("<a href=\"./{}{query}\">{}</a>", quote_set(name, SLASH).replace('.', "%2E"), escape_html(name))
}

fn row(head: &str, link: &str, size: &str, date: &str) -> String {
    format!(
        "   <tr {head}>\n    <td class=\"colname\">{link}</td>\n    <td class=\"colsize\">{size}</td>\n    <td class=\"coldate\">{date}</td>\n   </tr>\n"
    )
}

/// A folder. `entries` are a container's rows; `query` is put behind each link and escaped already; `parent` is
/// shown when there is one that may be seen.
pub fn listing(site: &Site, label: &str, prefix: &str, entries: &[Value], query: &str, parent: bool) -> String {
    let own = "   h1 {font-size: 1em; font-weight: bold;}\n   th {text-align: left; padding: 0px 1em 0px 1em;}\n   \
               td {padding: 0px 1em 0px 1em;}\n   a {text-decoration: none;}\n";
    let (label, style) = (escape_html(label), style(site, prefix, own));
    let mut page = format!(
        "<!DOCTYPE html>\n<html>\n <head>\n  <title>Listing of {label}</title>\n{style} </head>\n <body>\n  \
         <h1 id=\"title\">Listing of {label}</h1>\n  <table id=\"listing\">\n   <tr id=\"heading\">\n    \
         <th class=\"colname\">Name</th>\n    <th class=\"colsize\">Size</th>\n    <th class=\"coldate\">Date</th>\n   </tr>\n"
    );
    if parent {
        page.push_str(&row("id=\"parent\" class=\"item\"", &format!("<a href=\"../{query}\">../</a>"), "&nbsp;", "&nbsp;"));
    }
    let below = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_string();
    for subdir in entries.iter().filter_map(|e| e.get("subdir").and_then(Value::as_str)) {
        page.push_str(&row("class=\"item subdir\"", &link(&below(subdir), query), "&nbsp;", "&nbsp;"));
    }
    for entry in entries {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some(name) = entry.get("name").and_then(Value::as_str) else { continue };
        let classes: Vec<String> = text("content_type").split('/').map(|t| format!("type-{}", escape_html(&t.to_lowercase()))).collect();
        let date = escape_html(text("last_modified")).split('.').next().unwrap_or_default().replace('T', " ");
        let size = human(entry.get("bytes").and_then(Value::as_u64).unwrap_or(0));
        page.push_str(&row(&format!("class=\"item {}\"", classes.join(" ")), &link(&below(name), query), &size, &date));
    }
    page.push_str("  </table>\n </body>\n</html>\n");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1Ki"),
            (1536, "2Ki"),
            (2560, "2Ki"),
            (1 << 20, "1Mi"),
            (1_048_575, "1Mi"),
            (u64::MAX, "16Ei"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn style_sheets() {
        assert_eq!(css_path("a b.css", "x/y/"), "../../a%20b.css");
        assert_eq!(css_path("/a.css", "x/"), "/a.css");
        assert_eq!(css_path("https://h/\"a", ""), "https://h/%22a");
    }
}
