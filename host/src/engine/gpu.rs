//! GPU code of builds that have it (cargo features `cuda`, `vulkan`, `metal`): a file beside the CPU
//! code, loaded before the model so that `engine.gpu_layers` finds a device.

use super::cpu;

/// What this build was made with.
pub const BUILT: &[&str] = &[
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "vulkan")]
    "vulkan",
    #[cfg(feature = "metal")]
    "metal",
];

/// Loads the build's GPU code. Without a driver or a device the model stays on the CPU, which is
/// told and no reason not to start.
pub fn load() {
    for &name in BUILT {
        match cpu::load_beside(&format!("libggml-{name}.so")) {
            true => tracing::info!(name, "GPU code loaded"),
            false => tracing::warn!(
                name,
                "the GPU code cannot be loaded (no driver, no device, or its file is missing): \
                 engine.gpu_layers has no effect"
            ),
        }
    }
}
