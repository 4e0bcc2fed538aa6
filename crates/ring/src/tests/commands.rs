//! What operators type and scripts read.

use crate::cli::{Terminal, run};
use caelum_base::SeededRng;
use std::path::Path;

fn ring(dir: &Path, command: &str, answer: Option<&str>) -> (u8, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut args = vec![dir.join("object.builder").display().to_string()];
    args.extend(command.split_whitespace().map(str::to_string));
    let mut reply = || answer.map(|a| format!("{a}\n"));
    let mut terminal = Terminal { out: &mut out, err: &mut err, answer: &mut reply, now: 1_700_000_000, rng: &SeededRng::new(1) };
    let code = run(&args, &mut terminal);
    let text = String::from_utf8(out).unwrap().replace(&dir.display().to_string(), "DIR");
    (code, text)
}

#[test]
fn from_nothing_to_a_ring() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let missing = (2, "Ring Builder file does not exist: DIR/object.builder\n".to_string());
    assert_eq!(ring(dir, "", None), missing);
    assert_eq!(ring(dir, "create 4 2 1", None), (0, String::new()));
    let added = ring(dir, "add r1z1-10.0.0.1:6200R10.1.0.1:6201/sda_note 100 r1z2-10.0.0.2:6200/sdb 50", None);
    assert_eq!(
        added,
        (
            0,
            "Device d0r1z1-10.0.0.1:6200R10.1.0.1:6201/sda_\"note\" with 100.0 weight got id 0\nDevice \
             d1r1z2-10.0.0.2:6200R10.0.0.2:6200/sdb_\"\" with 50.0 weight got id 1\n"
                .into()
        )
    );
    let (code, text) = ring(dir, "add -r 1 --zone=3 -i10.0.0.3 --port 6200 --dev sda --weight 150", None);
    assert_eq!((code, text.as_str()), (0, "Device d2r1z3-10.0.0.3:6200R10.0.0.3:6200/sda_\"\" with 150.0 weight got id 2\n"));
    assert_eq!(ring(dir, "rebalance", None).0, 1, "uneven weights cannot be dispersed");
    let (code, text) = ring(dir, "", None);
    assert_eq!(code, 0);
    let expected = "16 partitions, 2.000000 replicas, 1 regions, 3 zones, 3 devices, 2-byte IDs,";
    assert!(text.contains(expected) && text.contains("Ring file DIR/object.ring.gz is up-to-date"), "{text}");
    assert_eq!(ring(dir, "validate", None), (0, String::new()));
    assert_eq!(ring(dir, "version", None).1, "DIR/object.ring.gz: Serialization version: 1 (2-byte IDs), build version: 4\n");
    assert_eq!(std::fs::read_dir(dir.join("backups")).unwrap().count(), 2);
}

#[test]
fn refusals() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    assert_eq!(ring(dir, "create 40 2 1", None), (2, "part_power must be at most 32 (was 40)\n".into()));
    assert_eq!(ring(dir, "create 4 2 1", None).0, 0);
    let unchanged = "The on-disk ring builder is unchanged.\n";
    assert_eq!(ring(dir, "add r1z1-10.0.0.1:x/sda 1", None), (2, format!("Invalid port :x in add value\n{unchanged}")));
    assert_eq!(ring(dir, "add r1z1-10.0.0.1:1/a 1 r1z1-10.0.0.1:1/a 1", None).0, 2);
    assert_eq!(ring(dir, "search d0", None), (2, "No matching devices found\n".into()));
    assert_eq!(ring(dir, "remove d0", None), (2, format!("Search value matched 0 devices.\n{unchanged}")));
    assert_eq!(ring(dir, "nonsense", None), (2, "Unknown command: nonsense\n".into()));
    assert_eq!(ring(dir, "rebalance", None).0, 2, "no devices");
    assert_eq!(ring(dir, "write_ring", None), (2, "Unable to write empty ring.\n".into()));
    assert_eq!(ring(dir, "set_overload -1", None).0, 2);
    assert_eq!(ring(dir, "set_overload 2", None).0, 1);
    assert_eq!(ring(dir, "set_overload 10%", None).0, 0);
    assert_eq!(ring(dir, "set_replicas 0.5", None), (2, "Replica count must be at least 1.\n".into()));
    assert_eq!(ring(dir, "list_parts d0", None).0, 2);
    std::fs::write(dir.join("object.builder"), b"\x80\x02cos\nsystem\n.").unwrap();
    assert_eq!(ring(dir, "", None), (2, "Ring Builder file is invalid: DIR/object.builder\n".into()));
}

#[test]
fn several_devices_need_consent() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    ring(dir, "create 4 1 1", None);
    ring(dir, "add r1z1-10.0.0.1:6200/a 1 r1z1-10.0.0.1:6200/b 1", None);
    for no in [None, Some("n"), Some("yes")] {
        let (code, text) = ring(dir, "set_weight z1 5", no);
        assert_eq!(code, 2);
        assert!(text.ends_with("Aborting device modifications\n"), "{text}");
    }
    assert_eq!(ring(dir, "set_weight z1 5", Some("y")).0, 0);
    assert_eq!(ring(dir, "set_zone --zone 1 --yes 2", None).0, 0);
    assert_eq!(ring(dir, "set_info d0 10.0.0.9:1R10.0.0.8:2/x_m", None).0, 0);
    let (_, text) = ring(dir, "search 10.0.0.9", None);
    assert!(text.contains("10.0.0.8                 2         x   5.00"), "{text}");
    assert_eq!(ring(dir, "set_info d1 10.0.0.9:1/x", None), (2, "Device 0 already uses 10.0.0.9:1/x.\n".into()));
    assert_eq!(ring(dir, "remove d0", None).0, 0);
    assert!(ring(dir, "", None).1.contains("DEL"));
}

#[test]
fn part_power_steps() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    ring(dir, "create 4 1 0", None);
    ring(dir, "add r1z1-10.0.0.1:6200/a 1", None);
    assert_eq!(ring(dir, "rebalance", None).0, 0);
    assert_eq!(ring(dir, "increase_partition_power", None).0, 2);
    assert_eq!(ring(dir, "prepare_increase_partition_power", None).0, 0);
    assert_eq!(ring(dir, "add r1z1-10.0.0.1:6200/b 1", None).0, 2);
    assert_eq!(ring(dir, "rebalance", None).0, 2);
    assert_eq!(ring(dir, "increase_partition_power", None).0, 0);
    assert_eq!(ring(dir, "write_ring", None).0, 0);
    assert_eq!(ring(dir, "finish_increase_partition_power", None).0, 0);
    assert_eq!(ring(dir, "cancel_increase_partition_power", None).0, 2);
    assert!(ring(dir, "", None).1.contains("32 partitions"));
}

#[test]
fn composite_rings() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name).display().to_string();
    let say = |args: &[&str]| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        let rng = SeededRng::new(1);
        let mut terminal = Terminal { out: &mut out, err: &mut err, answer: &mut || None, now: 1_700_000_000, rng: &rng };
        let code = run(&args, &mut terminal);
        (code, String::from_utf8([out, err].concat()).unwrap())
    };
    let (one, two, both, ring) = (at("1.builder"), at("2.builder"), at("both"), at("object.ring.gz"));
    for (file, region) in [(&one, 1), (&two, 2)] {
        say(&[file, "create", "4", "1", "0"]);
        say(&[file, "add", &format!("r{region}z1-10.0.0.{region}:6200/a"), "1"]);
    }
    assert_eq!(say(&[&both, "compose", &one, &two, "--output", &ring]).0, 2, "not balanced yet");
    for file in [&one, &two] {
        assert_eq!(say(&[file, "rebalance"]).0, 0);
    }
    assert_eq!(say(&[&both, "compose", &one, "--output", &ring]).0, 2, "one is not enough");
    assert_eq!(say(&[&both, "compose", &one, &two, "--output", &ring]), (0, String::new()));
    let composed = crate::file::load(Path::new(&ring)).unwrap();
    assert_eq!(composed.primaries(3).iter().map(|d| (d.id, d.region)).collect::<Vec<_>>(), [(0, 1), (1, 2)]);
    let (code, text) = say(&[&both, "compose", "--output", &ring]);
    assert!(code == 2 && text.contains("None of the component builders has been modified"), "{text}");
    say(&[&one, "set_weight", "d0", "5"]);
    say(&[&one, "rebalance", "--force"]);
    assert_eq!(say(&[&both, "compose", &two, &one, "--output", &ring]).0, 2, "another order");
    assert_eq!(say(&[&both, "compose", "--output", &ring]).0, 0);
    assert!(say(&[&both, "show"]).1.contains("\"version\": 2"));
}
