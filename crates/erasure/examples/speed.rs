//! How fast segments are encoded and decoded: `cargo run --release -p caelum-erasure --example speed`. With
//! arguments `SCHEME K M FILE` it writes the fragments of FILE one after another to standard output instead.

use caelum_erasure::{Codec, Error};
use std::io::Write;
use std::time::Instant;

const SEGMENT: usize = 1 << 20;
const ROUNDS: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [scheme, k, m, file] = args.as_slice() {
        let codec = Codec::new(scheme, k.parse()?, m.parse()?)?;
        let fragments = codec.encode(&std::fs::read(file)?)?;
        std::io::stdout().write_all(&fragments.concat())?;
        return Ok(());
    }
    for (scheme, k, m) in [("isa_l_rs_vand", 4, 2), ("isa_l_rs_vand", 10, 4), ("isa_l_rs_cauchy", 10, 4), ("liberasurecode_rs_vand", 10, 4)]
    {
        measure(scheme, k, m)?;
    }
    Ok(())
}

fn measure(scheme: &str, k: usize, m: usize) -> Result<(), Error> {
    let codec = Codec::new(scheme, k, m)?;
    let segment: Vec<u8> = (0..SEGMENT).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let rate = |start: Instant| (ROUNDS * SEGMENT) as f64 / 1e6 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut fragments = Vec::new();
    for _ in 0..ROUNDS {
        fragments = codec.encode(&segment)?;
    }
    let encode = rate(start);
    // Without the first m data fragments.
    let rest: Vec<&[u8]> = fragments[m..].iter().map(Vec::as_slice).collect();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        assert_eq!(codec.decode(&rest)?.len(), SEGMENT);
    }
    let decode = rate(start);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        codec.reconstruct(&rest, 0)?;
    }
    println!("{scheme} {k}+{m}: encode {encode:.0} MB/s, decode with {m} lost {decode:.0} MB/s, reconstruct one {:.0} MB/s", rate(start));
    Ok(())
}
