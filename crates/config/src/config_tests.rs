use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};

static STORE: [Opt; 4] = [
    Opt::new("store.url", Kind::Str, "sqlite:caelum.db", "Where state is kept.\nA path or a | address."),
    Opt::new("store.max_connections", Kind::Int { min: 1, max: 500 }, "16", "Connections."),
    Opt::new("store.backend", Kind::Enum(&["sqlite", "postgres"]), "sqlite", "Kind of \"store\"."),
    Opt::new("store.password", Kind::SecretStr, "", "Password."),
];
static REST: [Opt; 6] = [
    Opt::new("debug", Kind::Bool, "false", "Log more."),
    Opt::new("rest.timeout", Kind::Duration, "30s", "Deadline."),
    Opt::new("rest.max_body", Kind::Size, "1M", "Largest body."),
    Opt::new("rest.listen", Kind::List, "127.0.0.1,::1", "Addresses."),
    Opt::new("rest.tls.cert", Kind::Path, "", "Certificate."),
    Opt::new("rest.workers", Kind::Int { min: 0, max: i64::MAX }, "0", "Threads."),
];

fn schema() -> Schema {
    Schema::new(vec![&STORE, &REST]).unwrap()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn problem(layers: &Layers) -> String {
    schema().load(layers).unwrap_err().message
}

const FILE: &str = "debug = true\n[store]\nurl = 'file'\nmax_connections = 0x20\npassword = \"hunter2\"\n\
    [rest]\nlisten = ['a', 'b,c']\nmax_body = 2048\ntls.cert = '/c.pem'\ntimeout = '5m'\n";

#[test]
fn defaults_hold_alone() {
    let c = schema().load(&Layers::new()).unwrap();
    assert_eq!(c.str("store.url"), "sqlite:caelum.db");
    assert_eq!((c.int("store.max_connections"), c.bool("debug"), c.size("rest.max_body")), (16, false, 1 << 20));
    assert_eq!(c.duration("rest.timeout"), Duration::from_secs(30));
    assert_eq!(c.list("rest.listen"), ["127.0.0.1", "::1"]);
    assert_eq!((c.opt_path("rest.tls.cert"), c.opt_str("store.backend")), (None, Some("sqlite")));
    assert!(c.secret("store.password").expose().is_empty());
    assert!(c.show().iter().all(|r| r.source == Source::Default));
}

#[test]
fn stronger_layers_win_and_show_says_which() {
    let layers = Layers::new()
        .file("c.toml", FILE)
        .env(pairs(&[("CAELUM_STORE_URL", "env"), ("CAELUM_DEBUG", "False"), ("CAELUM_CONFIG", "c.toml"), ("HOME", "/")]))
        .cli(pairs(&[("store.url", "first"), ("store.url", "cli")]));
    let c = schema().load(&layers).unwrap();
    assert_eq!((c.str("store.url"), c.bool("debug")), ("cli", false));
    assert_eq!((c.int("store.max_connections"), c.size("rest.max_body")), (32, 2048));
    assert_eq!(c.list("rest.listen"), ["a", "b,c"]);
    assert_eq!(c.path("rest.tls.cert"), Path::new("/c.pem"));
    assert_eq!(c.secret("store.password").expose(), "hunter2");
    let shown: Vec<String> = c.show().iter().map(|r| format!("{}={} {}", r.name, r.value, r.source)).collect();
    assert_eq!(
        shown,
        [
            "debug=false env",
            "rest.listen=a,b,c file c.toml:7",
            "rest.max_body=2K file c.toml:8",
            "rest.timeout=5m file c.toml:10",
            "rest.tls.cert=/c.pem file c.toml:9",
            "rest.workers=0 default",
            "store.backend=sqlite default",
            "store.max_connections=32 file c.toml:4",
            "store.password=*** file c.toml:5",
            "store.url=cli cli",
        ]
    );
    assert!(!format!("{c:?}").contains("hunter2"));
}

#[test]
fn faulty_files_name_line_key_and_form() {
    for (text, want) in [
        ("\n[store]\nulr = 'x'\n", "c.toml:3: there is no option store.ulr (did you mean store.url?)"),
        ("[stroe]\nurl = 'x'\n", "c.toml:2: there is no option stroe.url (did you mean store.url?)"),
        ("[nothing]\n", "c.toml:1: there is no option nothing"),
        ("store = 1\n", "c.toml:1: there is no option store"),
        ("[store]\nurl = 1\n", "c.toml:2: store.url must be a text"),
        ("[store.url]\nx = 1\n", "c.toml:1: store.url must be a text"),
        ("[store]\nmax_connections = '5'\n", "c.toml:2: store.max_connections must be an integer from 1 to 500"),
        ("[store]\nmax_connections = 501\n", "c.toml:2: store.max_connections must be an integer from 1 to 500"),
        ("[store]\nmax_connections = 1.5\n", "c.toml:2: store.max_connections must be an integer from 1 to 500"),
        ("[store]\nbackend = 'mysql'\n", "c.toml:2: store.backend must be one of sqlite, postgres"),
        ("debug = 'maybe'\n", "c.toml:1: debug must be one of true, false, yes, no, on, off, 1, 0"),
        ("debug = 2\n", "c.toml:1: debug must be one of true, false, yes, no, on, off, 1, 0"),
        ("rest.timeout = 'soon'\n", "c.toml:1: rest.timeout must be a duration such as 500ms, 30s, 5m, 2h or 7d"),
        ("rest.max_body = -1\n", "c.toml:1: rest.max_body must be a size such as 4096, 512M or 10G"),
        ("rest.listen = [1]\n", "c.toml:1: rest.listen must be a list of texts"),
        ("rest.workers = -1\n", "c.toml:1: rest.workers must be an integer of at least 0"),
        ("[store]\npassword = 12345\n", "c.toml:2: store.password must be a text (secret)"),
    ] {
        assert_eq!(problem(&Layers::new().file("c.toml", text)), want, "{text:?}");
    }
}

#[test]
fn a_file_that_does_not_parse_names_the_line_and_quotes_nothing() {
    for (text, line) in [
        ("debug = true\n\n[store\nurl = 'x'\n", 3),
        ("[store]\npassword = \"hunter2\n", 2),
        ("[store]\npassword = hunter2\n", 2),
        ("debug = true\ndebug = false\n", 2),
        ("x", 1),
    ] {
        let e = problem(&Layers::new().file("c.toml", text));
        assert!(e.starts_with(&format!("c.toml:{line}: ")), "{text:?} gave {e}");
        assert!(!e.contains("hunter2"), "{e}");
    }
    let deep = format!("debug = {}", "[".repeat(50_000));
    assert!(schema().load(&Layers::new().file("c.toml", deep)).is_err());
}

#[test]
fn faulty_environment_and_command_line() {
    let env = |k: &str, v: &str| problem(&Layers::new().env(pairs(&[(k, v)])));
    let cli = |k: &str, v: &str| problem(&Layers::new().cli(pairs(&[(k, v)])));
    assert_eq!(
        env("CAELUM_STORE_ULR", "x"),
        "environment variable CAELUM_STORE_ULR: there is no such option (did you mean CAELUM_STORE_URL?)"
    );
    assert_eq!(
        env("CAELUM_STORE_MAX_CONNECTIONS", "many"),
        "environment variable CAELUM_STORE_MAX_CONNECTIONS: store.max_connections must be an integer from 1 to 500"
    );
    assert_eq!(cli("rest.timeuot", "1s"), "command line: there is no option rest.timeuot (did you mean rest.timeout?)");
    assert!(cli("debug", "").starts_with("command line: debug must be"));
    let secret = cli("store.password", "hunter2");
    assert!(secret.contains("CAELUM_STORE_PASSWORD") && !secret.contains("hunter2"), "{secret}");
}

#[test]
fn all_problems_are_reported_together() {
    let layers = Layers::new().file("c.toml", "a = 1\ndebug = 'x'\n").env(pairs(&[("CAELUM_B", "1")])).cli(pairs(&[("c", "1")]));
    assert_eq!(problem(&layers).lines().count(), 4);
}

#[test]
fn a_secret_may_come_from_the_environment() {
    let layers = Layers::new().env(pairs(&[("CAELUM_STORE_PASSWORD", "hunter2")]));
    let c = schema().load(&layers).unwrap();
    assert_eq!(c.secret("store.password").expose(), "hunter2");
    assert!(c.show().iter().all(|r| !r.value.contains("hunter2")));
}

#[test]
fn wrong_reads_are_bugs() {
    let c = schema().load(&Layers::new()).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| c.str("store.nothing").len())).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| c.int("store.url"))).is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| c.str("store.password").len())).is_err());
}

#[test]
fn the_sample_file_loads_once_uncommented() {
    let s = schema();
    let sample = s.sample_toml();
    assert!(sample.contains("[store]\n") && sample.contains("# Where state is kept.\n# A path"), "{sample}");
    assert!(s.load(&Layers::new().file("c", &sample)).is_ok());
    let active: Vec<&str> = sample.lines().map(|l| if l.starts_with("# ") { l } else { l.strip_prefix('#').unwrap_or(l) }).collect();
    let c = s.load(&Layers::new().file("c", active.join("\n"))).unwrap();
    let defaults = s.load(&Layers::new()).unwrap();
    for (row, default) in c.show().iter().zip(defaults.show()) {
        assert_eq!(row.value, default.value, "{}", row.name);
        assert_ne!(row.source, Source::Default, "{}", row.name);
    }
}

#[test]
fn the_reference_page_names_every_option() {
    let s = schema();
    let page = s.docs_markdown();
    for opt in s.options() {
        assert!(page.contains(&format!("| `{}` |", opt.name)) && page.contains(&opt.env_name()), "{}", opt.name);
    }
    assert!(page.contains("A path or a \\| address.") && page.contains("## General") && page.contains("## rest.tls"));
}
