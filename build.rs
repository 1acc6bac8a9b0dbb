//! Compiles `proto/` with protox, which is pure Rust, so that nobody has to
//! install protoc, and embeds the descriptor set for reflection and tests.

use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

#[expect(clippy::disallowed_methods, reason = "Cargo hands build scripts their settings in the environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    let files: Vec<PathBuf> = ["token", "grant", "tenant", "rotation", "error"]
        .iter()
        .map(|name| root.join(format!("obovault/v1/{name}.proto")))
        .collect();
    println!("cargo:rerun-if-changed=proto");

    let descriptors = protox::compile(&files, [root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("obovault.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Messages that carry a token have no generated `Debug`; src/proto.rs
        // gives them one that prints no secret.
        .skip_debug([
            "obovault.v1.GetAccessTokenResponse",
            "obovault.v1.ExchangeOnBehalfOfRequest",
            "obovault.v1.ImportGrantRequest",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
