//! Runs tests on a simulated CUDA driver, in a process of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Set in the process that runs on the simulated driver.
pub(crate) const SIMULATED: &str = "KVOF_TEST_SIMULATED_CUDA";

/// The GPUs; none where there are none, which is told, and which is an error on the simulated driver.
pub(crate) fn gpus() -> Vec<kvof_memory::cuda::CudaDeviceInfo> {
    kvof_memory::cuda::available().unwrap_or_else(|error| {
        assert!(std::env::var_os(SIMULATED).is_none(), "{error}");
        println!("skipped: {error}");
        Vec::new()
    })
}

/// A folder with the simulated driver, compiled; gone when this is dropped.
pub(crate) struct SimulatedDriver(PathBuf);

impl SimulatedDriver {
    pub(crate) fn build() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let source = ["tests/driver/libcuda.rs", "memory/tests/driver/libcuda.rs"].map(|file| here.join(file));
        let source = source.iter().find(|file| file.exists()).expect("the source of the simulated driver");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("simulated-cuda-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let driver = Self(folder);
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let built = Command::new(rustc)
            .args(["--edition=2024", "--crate-type=cdylib", "-Copt-level=1", "-o"])
            .arg(driver.0.join("libcuda.so"))
            .arg(source)
            .output()
            .expect("rustc is there where cargo is");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        driver
    }

    /// Runs tests of this program, chosen as on its command line, on the driver.
    pub(crate) fn run(&self, environment: &[(&str, &str)], tests: &[&str]) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("LD_LIBRARY_PATH", &self.0).env(SIMULATED, "1").env_remove("CUDA_VISIBLE_DEVICES");
        command.envs(environment.iter().copied());
        command.args(["--nocapture", "--include-ignored", "--skip", "on_a_simulated_driver"]).args(tests);
        let output = command.output().unwrap();
        println!("{}", String::from_utf8_lossy(&output.stdout));
        println!("{}", String::from_utf8_lossy(&output.stderr));
        output
    }
}

impl Drop for SimulatedDriver {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
