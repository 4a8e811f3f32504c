//! The bytes that are pinned, as `golden.rs` says.

/// The bytes of a fixture.
pub fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    data_encoding::HEXLOWER
        .decode(text.replace('\n', "").as_bytes())
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// That `bytes` are what the fixture says; otherwise shows what the fixture would have to be.
pub fn pin(name: &str, bytes: &[u8]) {
    let lines: Vec<_> = bytes.chunks(32).map(|line| data_encoding::HEXLOWER.encode(line)).collect();
    assert!(fixture(name) == bytes, "fixture {name} is not\n{}\n", lines.join("\n"));
}
