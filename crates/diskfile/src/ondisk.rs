//! Which of the files in an object's directory make up its state, and which are obsolete. The rules are
//! upstream's; all nodes must agree on them.

use crate::names::{Ext, FileInfo};
use caelum_swiftkit::{StoragePolicy, Timestamp};

/// Which fragment of an erasure-coded object is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FragWish {
    /// Exactly this fragment.
    pub index: Option<u32>,
    /// `X-Backend-Fragment-Preferences`: by time in descending preference, with the numbers not wanted.
    /// `Some`, even if empty, allows fragments that are not durable.
    pub prefs: Option<Vec<FragPref>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FragPref {
    pub timestamp: Timestamp,
    pub exclude: Vec<u32>,
}

/// The state of an object's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    pub data: Option<FileInfo>,
    /// Newest metadata, only beside data.
    pub meta: Option<FileInfo>,
    /// Holds the newest content type, only if that is newer than the data; may be the same as `meta`.
    pub ctype: Option<FileInfo>,
    pub tombstone: Option<FileInfo>,
    /// To be removed.
    pub obsolete: Vec<FileInfo>,
    /// To be removed once old enough.
    pub possible_reclaim: Vec<FileInfo>,
    /// Names that are none of ours.
    pub unexpected: Vec<String>,
    /// Fragments by time, newest first, ending with the durable ones.
    pub frag_sets: Vec<(Timestamp, Vec<FileInfo>)>,
    /// Time of the durable fragments among them.
    pub durable_at: Option<Timestamp>,
    /// All names that remain after a clean-up, in descending order.
    pub files: Vec<String>,
    fragments_chosen: bool,
}

impl OnDisk {
    /// Time of data or tombstone.
    pub fn ts_data(&self) -> Option<Timestamp> {
        // With both (fragments that are not durable), the tombstone counts last, as upstream maps them.
        self.tombstone.as_ref().or(self.data.as_ref()).map(|f| f.timestamp)
    }

    /// Fragments of one time, by number.
    pub fn frag_set(&self, t: Timestamp) -> Option<&[FileInfo]> {
        self.frag_sets.iter().find(|(at, _)| *at == t).map(|(_, set)| set.as_slice())
    }

    pub fn durable_frag_set(&self) -> Option<&[FileInfo]> {
        self.durable_at.and_then(|t| self.frag_set(t))
    }

    /// The durable fragments' time where a fragment was chosen: what upstream reports as durable.
    pub fn chosen_durable_at(&self) -> Option<Timestamp> {
        self.durable_at.filter(|_| self.fragments_chosen)
    }
}

/// The files of one directory by kind, each in descending order of time.
#[derive(Default)]
struct Kinds {
    data: Vec<FileInfo>,
    meta: Vec<FileInfo>,
    tombstone: Vec<FileInfo>,
    durable: Vec<FileInfo>,
    other: Vec<FileInfo>,
}

impl Kinds {
    fn all(&mut self) -> [&mut Vec<FileInfo>; 5] {
        [&mut self.data, &mut self.meta, &mut self.tombstone, &mut self.durable, &mut self.other]
    }
}

/// Cuts a descending list; the part for which `keep` does not hold goes to `out`.
fn split(list: &mut Vec<FileInfo>, keep: impl Fn(&FileInfo) -> bool, out: &mut Vec<FileInfo>) {
    let at = list.iter().position(|f| !keep(f)).unwrap_or(list.len());
    out.extend(list.drain(at..));
}

/// Decides over the names found in an object's directory.
pub fn resolve(names: &[String], policy: &StoragePolicy, wish: &FragWish) -> OnDisk {
    let mut out = OnDisk::default();
    let mut kinds = Kinds::default();
    for name in names {
        match FileInfo::parse(name, policy) {
            Ok(f) => match f.ext {
                Ext::Data => kinds.data.push(f),
                Ext::Meta => kinds.meta.push(f),
                Ext::Tombstone => kinds.tombstone.push(f),
                Ext::Durable => kinds.durable.push(f),
                Ext::Other => kinds.other.push(f),
            },
            Err(_) => out.unexpected.push(name.clone()),
        }
    }
    for list in kinds.all() {
        // Stable, as upstream's: files of one time stay in the order they were listed in.
        list.sort_by_key(|f| std::cmp::Reverse(f.timestamp));
    }
    tombstones(&mut kinds, &mut out);
    metas(&mut kinds, &mut out);
    if policy.is_ec() {
        fragments(&mut kinds, &mut out, wish);
    } else {
        whole(&mut kinds, &mut out);
    }
    choose(kinds, &mut out);
    out
}

/// Everything not newer than the newest tombstone is obsolete.
fn tombstones(kinds: &mut Kinds, out: &mut OnDisk) {
    let Some(newest) = kinds.tombstone.first().map(|f| f.timestamp) else { return };
    let Kinds { data, meta, tombstone, durable, other } = kinds;
    for list in [data, meta, durable, other] {
        split(list, |f| f.timestamp > newest, &mut out.obsolete);
    }
    out.obsolete.extend(tombstone.drain(1..));
}

/// Keeps the newest metadata, and beside it the newest content type if that stands in another file.
fn metas(kinds: &mut Kinds, out: &mut OnDisk) {
    let list = &mut kinds.meta;
    if list.is_empty() {
        return;
    }
    let mut retain = 1;
    if let Some(rest) = list.get_mut(1..).filter(|r| !r.is_empty()) {
        rest.sort_by_key(|f| std::cmp::Reverse(f.ctype_timestamp));
        if list[1].ctype_timestamp > list[0].ctype_timestamp {
            if list[1].timestamp == list[0].timestamp {
                list.swap(0, 1);
            } else {
                retain = 2;
            }
        }
    }
    out.obsolete.extend(list.drain(retain..));
}

fn whole(kinds: &mut Kinds, out: &mut OnDisk) {
    let Some(newest) = kinds.data.first().map(|f| f.timestamp) else {
        out.possible_reclaim.extend(kinds.meta.iter().cloned());
        return;
    };
    let Kinds { data, meta, tombstone, durable, other } = kinds;
    split(data, |f| f.timestamp >= newest, &mut out.obsolete);
    for list in [meta, tombstone, durable, other] {
        split(list, |f| f.timestamp > newest, &mut out.obsolete);
    }
    out.data = data.first().cloned();
}

/// Groups fragments by time down to the newest durable ones.
fn frag_sets(kinds: &Kinds, out: &mut OnDisk) -> Option<Timestamp> {
    let mut durable_at = kinds.durable.first().map(|f| f.timestamp);
    let mut rest = kinds.data.as_slice();
    while let Some(t) = rest.first().map(|f| f.timestamp) {
        let n = rest.iter().take_while(|f| f.timestamp >= t).count();
        let (set, tail) = rest.split_at(n);
        let mut set = set.to_vec();
        rest = tail;
        set.sort_by_key(|f| f.frag_index);
        if set.iter().any(|f| f.durable) && durable_at.is_none_or(|d| d < t) {
            durable_at = Some(t);
        }
        let here = durable_at == Some(t);
        if here {
            for f in &mut set {
                f.durable = true;
            }
            out.durable_at = Some(t);
        }
        out.frag_sets.push((t, set));
        if here {
            break;
        }
    }
    durable_at
}

/// By the preferences: the chosen set's time and the wanted fragment.
fn preferred(out: &OnDisk, prefs: &[FragPref], index: Option<u32>) -> (Option<Timestamp>, Option<u32>) {
    let mut candidates: Vec<Timestamp> = out.frag_sets.iter().map(|(t, _)| *t).collect();
    let mentioned: Vec<&FragPref> = prefs.iter().filter(|p| candidates.contains(&p.timestamp)).collect();
    for pref in mentioned {
        let set = out.frag_set(pref.timestamp).unwrap_or(&[]);
        let acceptable = set.iter().filter_map(|f| f.frag_index).filter(|i| !pref.exclude.contains(i)).max();
        match acceptable {
            Some(i) if candidates.contains(&pref.timestamp) => return (Some(pref.timestamp), Some(i)),
            _ => candidates.retain(|t| *t != pref.timestamp),
        }
    }
    (candidates.into_iter().max(), index)
}

fn fragments(kinds: &mut Kinds, out: &mut OnDisk, wish: &FragWish) {
    let durable_info = frag_sets(kinds, out);
    let (chosen_at, index) = match &wish.prefs {
        Some(prefs) => preferred(out, prefs, wish.index),
        None => (out.durable_at, wish.index),
    };
    let chosen = chosen_at.and_then(|t| out.frag_set(t)).and_then(|set| match index {
        Some(i) => set.iter().find(|f| f.frag_index == Some(i)),
        None => set.last(),
    });
    if let Some(f) = chosen.cloned() {
        if chosen_at != out.durable_at {
            // Newer than the durable fragments, so not obsolete; older than the chosen one, so not its own.
            split(&mut kinds.meta, |m| m.timestamp > f.timestamp, &mut Vec::new());
        }
        out.data = Some(f);
        out.fragments_chosen = true;
    }
    if let Some(t) = durable_info {
        for list in kinds.all() {
            split(list, |f| f.timestamp >= t, &mut out.obsolete);
        }
    }
    if out.durable_at.is_none() {
        out.obsolete.append(&mut kinds.durable);
    }
    for (t, set) in &out.frag_sets {
        let kept = Some(*t) == out.durable_at || (Some(*t) == chosen_at && chosen_at.is_some());
        if !kept {
            out.possible_reclaim.extend(set.iter().cloned());
        }
    }
    if out.durable_at.is_none() {
        out.possible_reclaim.extend(kinds.meta.iter().cloned());
    }
}

fn choose(kinds: Kinds, out: &mut OnDisk) {
    if let Some(data) = &out.data {
        out.meta = kinds.meta.first().cloned();
        out.ctype = kinds.meta.last().filter(|f| f.ctype_timestamp > Some(data.timestamp)).cloned();
    } else {
        out.tombstone = kinds.tombstone.into_iter().next();
    }
}
