//! Reads the few facts we need out of XML the daemon wrote.
//!
//! The daemon's text is canonical (single quotes, escaped content, one element name per start tag), so cutting out
//! elements by name is exact; it is never applied to text from users.

/// Every `<name …>…</name>` or `<name …/>` in `xml`, in order, without nesting.
pub fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}"), format!("</{name}>"));
    let mut out = Vec::new();
    let mut rest = xml;
    while let Some(at) = rest.find(&open) {
        let body = &rest[at..];
        let after = body.as_bytes().get(open.len()).copied();
        if !matches!(after, Some(b' ' | b'>' | b'/' | b'\n')) {
            rest = &body[open.len()..];
            continue;
        }
        let Some(tag_end) = body.find('>') else { break };
        let end = if body[..tag_end].ends_with('/') {
            tag_end + 1
        } else {
            match body.find(&close) {
                Some(c) => c + close.len(),
                None => break,
            }
        };
        out.push(&body[..end]);
        rest = &body[end..];
    }
    out
}

/// Attribute `attr` of the first element `name` in `xml`.
pub fn attribute<'a>(xml: &'a str, name: &str, attr: &str) -> Option<&'a str> {
    let element = *elements(xml, name).first()?;
    let tag = &element[..element.find('>')?];
    let from = tag.find(&format!(" {attr}='"))? + attr.len() + 3;
    tag[from..].split('\'').next()
}

/// Text of the first element `name`.
pub fn content<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let element = *elements(xml, name).first()?;
    let from = element.find('>')? + 1;
    element.get(from..element.rfind("</")?)
}

/// The devices of a domain, without its metadata.
fn devices(xml: &str) -> &str {
    elements(xml, "devices").first().copied().unwrap_or("")
}

/// A device of the domain that carries one of our aliases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Volume or port id.
    pub id: String,
    /// Its name: the disk's target (`vdb`), the interface's tap.
    pub name: String,
    pub xml: String,
}

/// Volumes attached, by `kind` `vol`, or interfaces, by `nic`.
pub fn ours(xml: &str, kind: &str) -> Vec<Device> {
    let (element, prefix) = if kind == "vol" { ("disk", "ua-vol-") } else { ("interface", "ua-nic-") };
    elements(devices(xml), element)
        .into_iter()
        .filter_map(|e| {
            let id = attribute(e, "alias", "name")?.strip_prefix(prefix)?;
            Some(Device { id: id.to_owned(), name: attribute(e, "target", "dev")?.to_owned(), xml: e.to_owned() })
        })
        .collect()
}

/// Names of all disks of the domain.
pub fn disk_names(xml: &str) -> std::collections::BTreeSet<String> {
    elements(devices(xml), "disk").into_iter().filter_map(|d| attribute(d, "target", "dev").map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu' id='3'><metadata><x:name>&lt;alias name='ua-vol-evil'/&gt;</x:name></metadata><devices>\n\
        <disk type='file' device='disk'><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>\n\
        <disk type='file' device='disk'><target dev='vdb' bus='virtio'/><alias name='ua-vol-1'/></disk>\n\
        <interface type='ethernet'><target dev='tap1' managed='no'/><alias name='ua-nic-2'/></interface>\n\
        <graphics type='vnc' port='5901'/></devices></domain>";

    #[test]
    fn finds_our_devices_only() {
        let v = ours(XML, "vol");
        assert_eq!((v.len(), v[0].id.as_str(), v[0].name.as_str()), (1, "1", "vdb"));
        assert_eq!(ours(XML, "nic")[0].name, "tap1");
        assert_eq!(disk_names(XML).len(), 2);
        assert_eq!(attribute(XML, "graphics", "port"), Some("5901"));
        assert_eq!(content("<a><b>x</b></a>", "b"), Some("x"));
        assert_eq!(elements("<disks/><disk/><disk", "disk").len(), 1);
    }
}
