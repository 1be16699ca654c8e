//! Tells the program which commit it is built from and which GPUs it is built for, where that is known, and compiles the
//! kernels for those GPUs.

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
    #[cfg(feature = "cuda")]
    if let Err(fault) = kernels::compile() {
        println!("cargo::error={}", fault.replace('\n', "\ncargo::error="));
    }
}

/// The project's own kernels, compiled to PTX beside those of candle, by the same compiler and for the same GPUs:
/// candle's kernels are built with cudaforge, which is asked here as well.
#[cfg(feature = "cuda")]
mod kernels {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    const SOURCES: &str = "src/nn/candle/kernels";

    /// Each `NAME.cu` to `NAME.ptx` in the folder of the build.
    pub(crate) fn compile() -> Result<(), String> {
        println!("cargo::rerun-if-changed={SOURCES}");
        for variable in ["NVCC", "NVCC_CCBIN", "CUDA_HOME", "CUDA_PATH"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        let toolkit = cudaforge::CudaToolkit::detect().map_err(|fault| {
            format!("no nvcc to compile {SOURCES} with ({fault}): set NVCC or CUDA_HOME, or put it into PATH")
        })?;
        let capability = cudaforge::detect_compute_cap().map_err(|fault| {
            format!("which GPU to compile {SOURCES} for is unknown ({fault}): set CUDA_COMPUTE_CAP")
        })?;
        let folder = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo has set no OUT_DIR")?);
        let files = fs::read_dir(SOURCES).map_err(|fault| format!("{SOURCES} cannot be read: {fault}"))?;
        let mut running = Vec::new();
        for file in files {
            let path = file.map_err(|fault| format!("{SOURCES} cannot be read: {fault}"))?.path();
            if path.extension().is_some_and(|extension| extension == "cu") {
                let mut command = command(&toolkit.nvcc_path, &capability.to_gencode_arg(), &folder, &path);
                let started = command.spawn().map_err(|fault| format!("{command:?} cannot be run: {fault}"))?;
                running.push((path, started));
            }
        }
        for (path, started) in running {
            let output = started.wait_with_output().map_err(|fault| format!("{}: {fault}", path.display()))?;
            if !output.status.success() {
                let said =
                    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
                return Err(format!("{} does not compile: {}\n{said}", path.display(), output.status));
            }
        }
        Ok(())
    }

    fn command(nvcc: &Path, architecture: &str, folder: &Path, source: &Path) -> Command {
        let mut command = Command::new(nvcc);
        command.args([architecture, "--ptx", "-std=c++17", "-O3", "--output-directory"]).arg(folder).arg(source);
        if let Ok(host) = std::env::var("NVCC_CCBIN") {
            command.args(["-ccbin", &host]);
        }
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command
    }
}
