//! The ring builder alone: `cargo run -p caelum-ring --example builder -- object.builder …`.

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    caelum_ring::cli::main(&args)
}
