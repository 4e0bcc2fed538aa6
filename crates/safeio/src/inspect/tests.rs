use super::*;
use caelum_base::{Rng, SeededRng};

fn put(b: &mut Vec<u8>, at: usize, data: &[u8]) {
    if b.len() < at + data.len() {
        b.resize(at + data.len(), 0);
    }
    b[at..at + data.len()].copy_from_slice(data);
}

fn with(base: &[u8], at: usize, data: &[u8]) -> Vec<u8> {
    let mut b = base.to_vec();
    put(&mut b, at, data);
    b
}

fn qcow2(version: u32) -> Vec<u8> {
    let mut b = vec![0; 5 << 16];
    put(&mut b, 0, b"QFI\xfb");
    for (at, v) in [(4, version), (20, 16), (36, 1), (56, 1), (96, 4), (100, 104)] {
        if version == 3 || at < 72 {
            put(&mut b, at, &v.to_be_bytes());
        }
    }
    for (at, v) in [(24, 1_u64 << 20), (40, 3 << 16), (48, 1 << 16)] {
        put(&mut b, at, &v.to_be_bytes());
    }
    b
}

const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 2048 SPARSE \"a.vmdk\"\nddb.x = \"1\"\n";

fn vmdk(descriptor: &str) -> Vec<u8> {
    let mut b = vec![0; 64 << 10];
    put(&mut b, 0, b"KDMV\x01\0\0\0");
    for (at, v) in [(12, 2048_u64), (20, 128), (28, 1), (36, 20), (56, 21)] {
        put(&mut b, at, &v.to_le_bytes());
    }
    put(&mut b, 73, b"\n \r\n");
    put(&mut b, 512, descriptor.as_bytes());
    b
}

fn stream_vmdk() -> Vec<u8> {
    let mut b = with(&vmdk(&DESCRIPTOR.replace("monolithicSparse", "streamOptimized")), 56, &[0xff; 8]);
    let footer = with(&b[..512], 56, &21_u64.to_le_bytes());
    let mut marker = vec![0; 512];
    put(&mut marker, 0, &[1]);
    put(&mut marker, 12, &[3]);
    b.extend([marker, footer, vec![0; 512]].concat());
    b
}

fn iso() -> Vec<u8> {
    with(&vec![0; 0x9000], 0x8001, b"CD001")
}

fn mbr() -> Vec<u8> {
    let b = with(&vec![0; 4096], 446, &[0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    with(&b, 510, b"\x55\xaa")
}

fn gpt() -> Vec<u8> {
    let b = with(&mbr(), 446, &[0, 0, 2, 0, 0xee]);
    with(&b, 512, b"EFI PART")
}

fn run(data: &[u8], declared: Option<Format>, chunk: usize) -> Verdict<ImageInfo> {
    let mut i = Inspector::new(declared);
    data.chunks(chunk.max(1)).for_each(|c| i.feed(c));
    i.finish(data.len() as u64)
}

fn verdict(data: &[u8], declared: Option<Format>) -> Verdict<ImageInfo> {
    let whole = run(data, declared, data.len());
    for chunk in [1, 7, 4096] {
        assert_eq!(run(data, declared, chunk), whole, "chunk {chunk}");
    }
    whole
}

#[test]
fn clean_images_pass() {
    use Format::*;
    for (format, data) in [
        (Raw, vec![0; 4096]),
        (Raw, mbr()),
        (Raw, gpt()),
        (Qcow2, qcow2(2)),
        (Qcow2, qcow2(3)),
        (Iso, iso()),
        (Vmdk, vmdk(DESCRIPTOR)),
        (Vmdk, stream_vmdk()),
        (Iso, with(&iso(), 510, b"\x55\xaa")),
        (Ari, b"\x1f\x8bxyz".to_vec()),
    ] {
        let info = verdict(&data, Some(format)).unwrap_or_else(|e| panic!("{}: {e:?}", format.as_str()));
        assert_eq!(info.format, format);
    }
    assert_eq!(verdict(&gpt(), None).unwrap().partition_table, PartitionTable::Gpt);
}

#[test]
fn hostile_qcow2_is_refused() {
    let q = qcow2(3);
    let mut bad: Vec<Vec<u8>> = [1_u32, 4].iter().map(|v| with(&q, 4, &v.to_be_bytes())).collect();
    for at in [8_u64, 104, 1 << 15, 1 << 40] {
        bad.push(with(&q, 8, &at.to_be_bytes()));
    }
    bad.push(with(&q, 16, &1024_u32.to_be_bytes()));
    for bit in [1, 2].into_iter().chain(5..64) {
        bad.push(with(&q, 72, &(1_u64 << bit).to_be_bytes()));
    }
    for (at, v) in [
        (20, 8_u32),
        (20, 22),
        (20, 31),
        (32, 1),
        (32, 2),
        (36, u32::MAX),
        (36, 0),
        (56, u32::MAX),
        (56, 0),
        (60, 65_536),
        (96, 7),
        (100, 100),
        (104, 0x4441_5441),
        (104, 0x0537_be77),
    ] {
        bad.push(with(&q, at, &v.to_be_bytes()));
    }
    for (at, v) in [(24, 0_u64), (24, 1 << 63), (24, u64::MAX), (40, 0), (40, 1 << 60), (48, 0), (48, 3 << 16), (48, 5)] {
        bad.push(with(&q, at, &v.to_be_bytes()));
    }
    bad.extend((4..104).step_by(9).map(|n| q[..n].to_vec()));
    bad.push(with(&q, 104, &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]));
    bad.extend([with(&q, 0x8001, b"CD001"), with(&mbr(), 0, &q[..112]), with(&q, q.len() - 512, b"koly")]);
    for (i, data) in bad.iter().enumerate() {
        assert!(run(data, Some(Format::Qcow2), data.len()).is_err(), "case {i}");
    }
}

#[test]
fn hostile_others_are_refused() {
    let d = |from: &str, to: &str| vmdk(&DESCRIPTOR.replace(from, to));
    let v = vmdk(DESCRIPTOR);
    let s = stream_vmdk();
    let n = s.len();
    let bad = [
        DESCRIPTOR.as_bytes().to_vec(),
        d("monolithicSparse", "monolithicFlat"),
        d("monolithicSparse", "twoGbMaxExtentFlat"),
        d("monolithicSparse", "vmfsRDM"),
        d("monolithicSparse", "MonolithicSparse"),
        d("a.vmdk", "/etc/passwd"),
        d("SPARSE", "FLAT"),
        d("CID=1", "parentFileNameHint=\"x\""),
        d("parentCID=ffffffff", "parentCID=1"),
        d("RW 2048 SPARSE \"a.vmdk\"", ""),
        d("version=1", "what"),
        d("version", "v\u{e9}"),
        with(&v, 28, &[9]),
        with(&v, 36, &[0xff; 8]),
        with(&v, 20, &[3]),
        with(&v, 4, &[9]),
        v[..600].to_vec(),
        with(&s, n - 1024 + 12, &[9]),
        with(&s, n - 1536, &[2]),
        with(&s, n - 1, &[1]),
        with(&s, n - 1024, b"x"),
        s[..n - 512].to_vec(),
        with(&v, 0x8001, b"CD001"),
        b"QED\0".repeat(200),
        b"COWD".repeat(200),
        b"LUKS\xba\xbe\0\x02".repeat(100),
        b"LUKS\xba\xbe\0\x01".repeat(100),
        b"WithoutFreeSpace".repeat(64),
        b"Bochs Virtual HD Image".repeat(64),
        with(&mbr(), 257, b"ustar"),
        with(&iso(), 0, b"\x1f\x8b"),
        with(&mbr(), 446, &[0x7f]),
        with(&gpt(), 462, &mbr()[446..462]),
        with(&gpt(), 454, &[2]),
        with(&gpt(), 447, &[9]),
        b"vhdxfile".repeat(100),
        b"conectix".repeat(128),
        with(&vec![0; 1024], 0x40, &0xbeda_107f_u32.to_le_bytes()),
        vec![],
        vec![0],
    ];
    for (i, data) in bad.iter().enumerate() {
        assert!(verdict(data, None).is_err(), "case {i}");
    }
    assert!(verdict(&qcow2(3), Some(Format::Raw)).is_err() && verdict(&mbr(), Some(Format::Qcow2)).is_err());
    assert!(Inspector::new(None).finish(7).is_err());
}

#[test]
fn random_headers_never_panic() {
    let rng = SeededRng::new(7);
    let bases = [
        qcow2(3),
        vmdk(DESCRIPTOR),
        stream_vmdk(),
        iso(),
        gpt(),
        with(&vec![0; 400 << 10], 0, b"vhdxfile"),
        with(&vec![0; 4096], 0, b"LUKS\xba\xbe\0\x01"),
    ];
    for round in 0..700 {
        let mut data = bases[round % bases.len()].clone();
        for _ in 0..8 {
            let at = rng.below(data.len().min(1200) as u64) as usize;
            data[at] = rng.u64() as u8;
        }
        data.truncate(rng.below(data.len() as u64 + 1) as usize);
        let _ = run(&data, None, 4096);
    }
}
