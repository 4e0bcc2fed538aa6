use super::*;
use crate::testing::spec;
use crate::{ConfigDrive, RootDisk};

const ID: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const VOLUME: &str = "bbbbbbbb-0000-4000-8000-000000000001";
const PORT: &str = "cccccccc-0000-4000-8000-000000000001";

fn facts() -> HostFacts {
    HostFacts { kvm: false, cpu_tuning: true, direct_io: true }
}

fn paths() -> GuestPaths {
    GuestPaths { dir: "/d/instances/x".into() }
}

fn full() -> GuestSpec {
    let mut s = spec(ID);
    s.name = "</name><x a='1'>\u{7}".to_owned();
    s.config_drive = Some(ConfigDrive { files: Default::default() });
    s.volumes.push(VolumeDisk {
        volume_id: VOLUME.to_owned(),
        path: "/v/it's".into(),
        format: "raw".to_owned(),
        size_bytes: 1 << 30,
        device: Some("/dev/vdc".to_owned()),
        boot_index: None,
        read_only: false,
        shareable: false,
    });
    s.nics.push(Nic {
        port_id: PORT.to_owned(),
        mac: "fa:16:3e:00:00:01".to_owned(),
        tap: "tapcccccccc-00".to_owned(),
        mtu: 1450,
        model: "virtio".to_owned(),
    });
    s
}

#[test]
fn a_full_guest_has_every_device_once() {
    let xml = domain(&full(), &paths(), &facts()).unwrap().replace('"', "'");
    for (part, n) in [
        ("<domain type='qemu'>", 1),
        ("<caelum:name>&lt;/name&gt;&lt;x a=&apos;1&apos;&gt;\u{fffd}</caelum:name>", 1),
        ("<memory unit='MiB'>64</memory>", 1),
        (
            "<driver name='qemu' type='qcow2' cache='none' discard='unmap'/><source file='/d/instances/x/disk'/><target dev='vda' bus='virtio'/><boot order='1'/>",
            1,
        ),
        (
            "<source file='/v/it&apos;s'/><target dev='vdc' bus='virtio'/><serial>bbbbbbbb-0000-4000-8000-000000000001</serial><alias name='ua-vol-bbbbbbbb-0000-4000-8000-000000000001'/>",
            1,
        ),
        ("<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='/d/instances/x/disk.config'/>", 1),
        ("<target dev='tapcccccccc-00' managed='no'/><model type='virtio'/><mtu size='1450'/>", 1),
        ("<log file='/d/instances/x/console.log' append='on'/>", 1),
        ("<entry name='product'>OpenStack Nova</entry>", 1),
        ("<listen type='socket' socket='/d/instances/x/vnc.sock'/>", 1),
        ("<disk ", 3),
        ("<cputune>", 0),
    ] {
        assert_eq!(xml.matches(part).count(), n, "{part} in {xml}");
    }
}

#[test]
fn flavor_and_image_change_the_hardware() {
    let mut s = full();
    s.vcpus = 8;
    for (k, v) in [("hw:cpu_sockets", "2"), ("hw:cpu_threads", "2"), ("quota:cpu_shares", "100"), ("quota:disk_read_bytes_sec", "1000")] {
        s.extra_specs.insert(k.to_owned(), v.to_owned());
    }
    s.image_props.insert("hw_machine_type".to_owned(), "q35".to_owned());
    s.image_props.insert("hw_disk_bus".to_owned(), "scsi".to_owned());
    let xml = domain(&s, &paths(), &HostFacts { kvm: true, direct_io: false, ..facts() }).unwrap().replace('"', "'");
    for part in [
        "<domain type='kvm'>",
        "<topology sockets='2' cores='2' threads='2'/>",
        "<cputune><shares>100</shares></cputune>",
        "<iotune><read_bytes_sec>1000</read_bytes_sec></iotune>",
        "pcie-root-port",
        "virtio-scsi",
        "<target dev='sda' bus='scsi'/>",
        "cache='writeback'",
        "host-model",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
}

#[test]
fn what_no_host_can_run_is_invalid() {
    let bad: [fn(&mut GuestSpec); 8] = [
        |s| drop(s.extra_specs.insert("hw:cpu_sockets".into(), "3".into())),
        |s| drop(s.extra_specs.insert("hw:cpu_cores".into(), "x".into())),
        |s| drop(s.image_props.insert("hw_machine_type".into(), "pc' evil='".into())),
        |s| drop(s.image_props.insert("hw_disk_bus".into(), "fdc".into())),
        |s| s.nics[0].tap = "../x".into(),
        |s| s.nics[0].port_id = "x".into(),
        |s| s.volumes[0].format = "vmdk".into(),
        |s| s.root = RootDisk::Volume,
    ];
    for f in bad {
        let mut s = full();
        s.vcpus = 4;
        f(&mut s);
        assert_eq!(domain(&s, &paths(), &facts()).unwrap_err().kind, caelum_base::ErrorKind::Invalid);
    }
}
