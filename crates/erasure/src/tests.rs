//! Against fragments that liberasurecode 1.8.0 wrote.

use super::*;
use proptest::prelude::*;

const TEXT: &[u8] = b"The quick brown fox jumps over the lazy dog";

/// Scheme, fragment 1 and fragment 5 of the text with k = 4, m = 2.
const THEIRS: [(&str, &str, &str); 4] = [
    (
        "isa_l_rs_vand",
        "010000000b000000000000002b000000000000000100000000000000000000000000000000000000000000000000000000000000000004000d0200cc5e0c0b000801003767ec87000000000000000000726f776e20666f78206a75",
        "050000000b000000000000002b000000000000000100000000000000000000000000000000000000000000000000000000000000000004000d0200cc5e0c0b00080100b276adf900000000000000000016761d5367932341f42635",
    ),
    (
        "isa_l_rs_vand_inv",
        "010000000b000000000000002b00000000000000010000000000000000000000000000000000000000000000000000000000000000000900000100cc5e0c0b000801001663895c000000000000000000726f776e20666f78206a75",
        "050000000b000000000000002b00000000000000010000000000000000000000000000000000000000000000000000000000000000000900000100cc5e0c0b000801009372c822000000000000000000c22dd71052e8c50dee1434",
    ),
    (
        "isa_l_rs_cauchy",
        "010000000b000000000000002b000000000000000100000000000000000000000000000000000000000000000000000000000000000007010e0200cc5e0c0b00080100dbc4b67a000000000000000000726f776e20666f78206a75",
        "050000000b000000000000002b000000000000000100000000000000000000000000000000000000000000000000000000000000000007010e0200cc5e0c0b000801005ed5f7040000000000000000001583ef78c11a239d046424",
    ),
    (
        "liberasurecode_rs_vand",
        "010000000c000000000000002b00000000000000010000000000000000000000000000000000000000000000000000000000000000000600000100cc5e0c0b00080100b7edd3300000000000000000006f776e20666f78206a756d70",
        "050000000c000000000000002b00000000000000010000000000000000000000000000000000000000000000000000000000000000000600000100cc5e0c0b0008010032fc924e00000000000000000096fb221a4d4692222605915d",
    ),
];

/// Fragment 0 with a checksum of its payload in the header.
const WITH_CHECKSUM: &str = "000000000b000000000000002b000000000000000258f7a950000000000000000000000000000000000000000000000000000000000004000d0200cc5e0c0b00080100f65ec8d200000000000000000054686520717569636b2062";

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn views(all: &[Vec<u8>]) -> Vec<&[u8]> {
    all.iter().map(Vec::as_slice).collect()
}

#[test]
fn fragments_are_theirs() {
    for (scheme, one, five) in THEIRS {
        let codec = Codec::new(scheme, 4, 2).unwrap();
        let ours = codec.encode(TEXT).unwrap();
        assert_eq!(ours[1], hex(one), "{scheme}");
        assert_eq!(ours[5], hex(five), "{scheme}");
        assert_eq!(ours[0].len(), codec.fragment_size(TEXT.len()));
        assert_eq!(Scheme::from_name(scheme), Some(codec.scheme()));
    }
}

#[test]
fn every_choice_of_k_gives_the_data_back() {
    for scheme in Scheme::ALL {
        let codec = Codec::new(scheme.name(), 4, 3).unwrap();
        let all = codec.encode(TEXT).unwrap();
        for set in 0_u32..1 << 7 {
            let some: Vec<&[u8]> = (0..7).rev().filter(|i| set >> i & 1 == 1).map(|i| all[i].as_slice()).collect();
            let got = codec.decode(&some);
            if some.len() < 4 {
                assert_eq!(got, Err(Error::TooFew { have: some.len(), need: 4 }));
                continue;
            }
            assert_eq!(got.unwrap(), TEXT, "{scheme:?} {set:b}");
            for (i, whole) in all.iter().enumerate() {
                assert_eq!(codec.reconstruct(&some, i).unwrap(), *whole, "{scheme:?} {set:b} {i}");
            }
        }
    }
}

#[test]
fn headers_tell() {
    let fragment = hex(WITH_CHECKSUM);
    let info = FragmentInfo::parse(&fragment).unwrap();
    assert_eq!((info.index, info.size, info.orig_data_size, info.backend_id), (0, 11, 43, 4));
    assert!(matches!(info.checksum, Checksum::Crc32(_)) && !info.checksum_mismatch);
    assert_eq!(info.encode(), fragment[..HEADER_SIZE]);
    let mut bad = fragment.clone();
    bad[HEADER_SIZE] ^= 1;
    assert!(FragmentInfo::parse(&bad).unwrap().checksum_mismatch);
    for at in 0..71 {
        let mut bad = fragment.clone();
        bad[at] ^= 1;
        // The library's version is not covered by the checksum; other releases' fragments are read.
        assert_eq!(FragmentInfo::parse(&bad).is_ok(), (63..67).contains(&at), "{at}");
    }
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let codec = Codec::new("isa_l_rs_vand", 4, 2).unwrap();
    let (a, b) = (codec.encode(TEXT).unwrap(), codec.encode(&TEXT[1..]).unwrap());
    assert_eq!(codec.decode(&[&a[0], &a[1], &a[2], &b[3]]), Err(Error::Mismatch("their sizes differ")));
    assert_eq!(codec.decode(&[&a[0], &a[0], &a[0], &a[0]]), Err(Error::TooFew { have: 1, need: 4 }));
    assert_eq!(codec.decode(&[]), Err(Error::TooFew { have: 0, need: 4 }));
    assert_eq!(codec.decode(&[&a[0][..85]]), Err(Error::BadHeader("its payload is short")));
    assert_eq!(codec.decode(&[b"short"]), Err(Error::BadHeader("shorter than a header")));
    let other = Codec::new("isa_l_rs_cauchy", 4, 2).unwrap();
    assert_eq!(other.decode(&views(&a)), Err(Error::BadHeader("another scheme's")));
    assert!(codec.reconstruct(&views(&a), 6).is_err());
    for (scheme, k, m) in [("isa_l_rs_vand", 0, 1), ("isa_l_rs_vand", 1, 0), ("isa_l_rs_vand", 250, 6), ("jerasure_rs_vand", 4, 2)] {
        assert!(Codec::new(scheme, k, m).is_err(), "{scheme} {k} {m}");
    }
}

#[test]
fn empty_segments() {
    for scheme in Scheme::ALL {
        let codec = Codec::new(scheme.name(), 3, 2).unwrap();
        let all = codec.encode(b"").unwrap();
        assert!(all.iter().all(|f| f.len() == HEADER_SIZE));
        assert_eq!(codec.decode(&views(&all[2..])).unwrap(), b"");
    }
}

/// What pyeclib's get_segment_info answers with k = 4.
#[test]
fn segments_as_pyeclib_counts_them() {
    let codec = Codec::new("isa_l_rs_vand", 4, 2).unwrap();
    let answers = [
        (0, 1_048_576, (1_048_576, 1_048_576, 262_224, 262_224, 0)),
        (1, 1_048_576, (1, 1, 81, 81, 1)),
        (10, 4, (4, 6, 81, 82, 2)),
        (1_000, 1_000, (1_000, 1_000, 330, 330, 1)),
        (1_001, 1_000, (1_001, 1_001, 331, 331, 1)),
        (1_009, 1_000, (1_000, 9, 330, 83, 2)),
        (5_000_000, 1_048_576, (1_048_576, 805_696, 262_224, 201_504, 5)),
        (3_145_729, 1_048_576, (1_048_576, 1_048_577, 262_224, 262_225, 3)),
    ];
    for (len, size, (segment_size, last_segment_size, fragment_size, last_fragment_size, num_segments)) in answers {
        let want = SegmentInfo { segment_size, last_segment_size, fragment_size, last_fragment_size, num_segments };
        assert_eq!(codec.segment_info(len, size), want, "{len} {size}");
    }
    let wide = Codec::new("liberasurecode_rs_vand", 4, 2).unwrap();
    assert_eq!(wide.segment_info(3_145_731, 1_048_576).last_fragment_size, 262_226);
}

#[test]
fn needed_fragments() {
    let codec = Codec::new("isa_l_rs_vand", 4, 2).unwrap();
    assert_eq!(codec.fragments_needed(&[1], &[]).unwrap(), [0, 2, 3, 4]);
    assert_eq!(codec.fragments_needed(&[1], &[0]).unwrap(), [2, 3, 4, 5]);
    assert!(codec.fragments_needed(&[1], &[0, 2]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn lost_fragments_come_back(data in proptest::collection::vec(any::<u8>(), 0..5_000), k in 1_usize..12, m in 1_usize..4, lose in any::<u64>()) {
        for scheme in Scheme::ALL {
            let codec = Codec::new(scheme.name(), k, m).unwrap();
            let mut all = codec.encode(&data).unwrap();
            for i in 0..m {
                all.remove((lose >> (8 * i)) as usize % all.len());
            }
            prop_assert_eq!(codec.decode(&views(&all)).unwrap(), data.clone());
        }
    }

    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(FragmentInfo::parse(&noise).is_err());
    }
}
