//! Tells the program which commit it is built from and which GPUs it is built for, where that is known.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs/heads");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    // What the kernels are compiled for, where somebody has said it; else it is that of the GPU here.
    if let Ok(capability) = std::env::var("CUDA_COMPUTE_CAP") {
        println!("cargo::rustc-env=EMBED_COLLECTIONS_CUDA_CAPABILITY={}", capability.trim());
    }
    let built_for = std::env::var("CUDA_COMPUTE_CAP").ok().and_then(|capability| capability.trim().parse::<u32>().ok());
    if std::env::var_os("CARGO_FEATURE_FLASH_ATTN").is_some() && built_for.is_some_and(|capability| capability < 80) {
        println!("cargo::error=flash-attn needs CUDA_COMPUTE_CAP=80 or newer; leave the feature out for older GPUs");
    }
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    // Without git or outside a checkout the commit is unknown, which is no reason not to build.
    if let Some(output) = output.ok().filter(|output| output.status.success()) {
        println!("cargo::rustc-env=EMBED_COLLECTIONS_COMMIT={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}
