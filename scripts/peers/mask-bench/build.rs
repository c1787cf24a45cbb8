//! Extracts tokio-websockets' masking from its source in cargo's folder: the module is private, and
//! a copy here would become outdated.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let source = source_of("tokio-websockets").join("src/mask.rs");
    let text = std::fs::read_to_string(&source).expect("the crate has src/mask.rs");
    // An included file cannot begin with the documentation of a module, and its tests need its
    // dependencies.
    let code = text.split("#[cfg(all(test").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.starts_with("//!"));
    let target = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"))
        .join("tokio_websockets_mask.rs");
    std::fs::write(target, lines.collect::<Vec<_>>().join("\n")).expect("OUT_DIR can be written");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rustc-check-cfg=cfg(feature, values(\"nightly\"))");
    println!("cargo::rerun-if-changed=build.rs");
}

/// Returns the folder of a dependency.
fn source_of(package: &str) -> PathBuf {
    let cargo = std::env::var("CARGO").expect("cargo sets it");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform"])
        .arg(std::env::var("TARGET").expect("cargo sets it"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let found = packages.iter().find(|p| p["name"] == package).expect("it is a dependency");
    let manifest = Path::new(found["manifest_path"].as_str().expect("a path"));
    manifest.parent().expect("a folder").to_owned()
}
