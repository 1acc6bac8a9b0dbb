//! A release is stripped, and its symbols are kept where a backtrace finds them.

use std::fs;
use std::path::Path;
use std::process::Command;

const PROGRAM: &str = "
#[inline(never)]
fn at_the_bottom(arguments: usize) { assert!(arguments == 0, \"too many\"); }
fn main() { at_the_bottom(std::env::args().count()); }
";

#[test]
fn a_backtrace_of_a_stripped_binary_has_names_and_lines_while_its_symbols_are_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let (source, binary) = (directory.path().join("program.rs"), directory.path().join("program"));
    fs::write(&source, PROGRAM).unwrap();
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    let mut compile = Command::new(rustc);
    compile.args(["--edition", "2024", "-O", "-C", "debuginfo=line-tables-only", "-o"]);
    assert!(compile.arg(&binary).arg(&source).status().unwrap().success());

    let whole = fs::metadata(&binary).unwrap().len();
    let split = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/split-symbols");
    assert!(Command::new(split).arg(&binary).status().unwrap().success());
    assert!(fs::metadata(&binary).unwrap().len() < whole / 2, "it is not stripped");

    let trace = || {
        let output = Command::new(&binary).env("RUST_BACKTRACE", "1").output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let with_symbols = trace();
    assert!(with_symbols.contains("program::at_the_bottom"), "{with_symbols}");
    assert!(with_symbols.contains("program.rs:4"), "{with_symbols}");

    fs::remove_file(directory.path().join("program.debug")).unwrap();
    let without = trace();
    assert!(!without.contains("program::at_the_bottom"), "the symbols were in the binary: {without}");
    assert!(without.contains("program.rs:3"), "a panic says its place all the same: {without}");
}
