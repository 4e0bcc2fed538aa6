//! Names in the reserved namespace.

use caelum_swiftkit::Timestamp;

/// Between the parts of a reserved name, and before it.
pub(super) const RESERVED: char = '\0';
/// In 10 µs: the latest moment that has a name.
const MAX_RAW: u64 = 999_999_999_999_999;

/// `None` when a part is reserved itself.
pub(super) fn reserved_name(parts: &[&str]) -> Option<String> {
    let fine = parts.iter().all(|p| !p.contains(RESERVED));
    fine.then(|| parts.iter().fold(String::new(), |all, p| format!("{all}{RESERVED}{p}")))
}

pub(super) fn split_reserved(name: &str) -> Option<Vec<&str>> {
    Some(name.strip_prefix(RESERVED)?.split(RESERVED).collect())
}

/// Where a container's versions are.
pub(super) fn versions_container(container: &str) -> Option<String> {
    reserved_name(&["versions", container])
}

/// The container that a versions container belongs to; other names as they are.
pub(super) fn user_container(name: &str) -> &str {
    match split_reserved(name).as_deref() {
        Some(["versions", container]) => container,
        _ => name,
    }
}

/// Later times have smaller names, so that a listing shows the newest first.
pub(super) fn invert(at: Timestamp) -> Timestamp {
    if at.offset == 0 {
        return Timestamp { raw: MAX_RAW - at.raw.min(MAX_RAW), offset: 0 };
    }
    Timestamp { raw: (MAX_RAW - at.raw.min(MAX_RAW)).saturating_sub(1), offset: at.offset.wrapping_neg() }
}

/// A version's object. `None` when the object's name is reserved.
pub(super) fn version_object(object: &str, version: Timestamp) -> Option<String> {
    reserved_name(&[object, &invert(version).internal()])
}

/// The object and the id of a version; `None` for other names.
pub(super) fn parse_version(name: &str) -> Option<(&str, String)> {
    match split_reserved(name)?.as_slice() {
        [object, inverted] => Some((object, invert(Timestamp::parse(inverted)?).internal())),
        _ => None,
    }
}

/// The id of what was written then.
pub(super) fn version_id(at: Timestamp) -> Timestamp {
    Timestamp { offset: 0, ..at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_real_nodes_name_them() {
        for (time, inverted) in [
            ("1600000000.12345", "8399999999.87654"),
            ("0000000000.00000", "9999999999.99999"),
            ("1600000000.12345_0000000000000001", "8399999999.87653_ffffffffffffffff"),
            ("1600000000.12345_00000000000000ff", "8399999999.87653_ffffffffffffff01"),
        ] {
            let t = Timestamp::parse(time).unwrap();
            assert_eq!(invert(t).internal(), inverted);
            assert_eq!(invert(invert(t)).internal(), time);
        }
        let name = version_object("a/b", Timestamp::parse("1600000000.12345").unwrap()).unwrap();
        assert_eq!(name, "\0a/b\08399999999.87654");
        assert_eq!(parse_version(&name), Some(("a/b", "1600000000.12345".into())));
        assert_eq!(parse_version("a/b"), None);
        assert_eq!(versions_container("c").as_deref(), Some("\0versions\0c"));
        assert_eq!(versions_container("\0c"), None);
        assert_eq!((user_container("\0versions\0c"), user_container("\0other\0c")), ("c", "\0other\0c"));
    }
}
