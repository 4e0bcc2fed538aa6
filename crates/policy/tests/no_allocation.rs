//! Deciding must not allocate: it runs for every request and every item of a list.

use caelum_policy::{Credentials, Enforcer, RuleDefault, Target, personas};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed unchanged to the system allocator; counting touches only a
// thread-local cell that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn allowing_and_filtering_do_not_allocate() {
    let get = RuleDefault::new("server:get", "rule:project_reader_or_admin", personas::PROJECT);
    let show = RuleDefault::new("image:get", "'public':%(visibility)s or is_admin:True", personas::PROJECT);
    let rules = personas::COMPUTE.iter().copied().chain([get, show]);
    let enforcer = Enforcer::new(rules, &BTreeMap::new()).expect("the rules are sound");
    let creds = Credentials {
        user_id: "u".into(),
        project_id: Some("p".into()),
        roles: vec!["member".into(), "Reader".into()],
        ..Credentials::default()
    };
    let own = Target::project("p").with("visibility", "public");
    let other = Target::project("q").with("visibility", "private");
    let before = COUNT.with(Cell::get);
    let answers = [
        enforcer.check("server:get", &creds, &own).is_ok(),
        enforcer.allows("server:get", &creds, &other),
        enforcer.allows("image:get", &creds, &own),
        enforcer.allows("image:get", &creds, &other),
        enforcer.allows("nothing", &creds, &own),
    ];
    let after = COUNT.with(Cell::get);
    assert_eq!(answers, [true, false, true, false, false]);
    assert_eq!(after - before, 0, "allocations while deciding");
}
