//! The child's work: load one file of kernels and multiply matrices with it, in every way in which
//! it stores weights.

#![expect(unsafe_code, reason = "ggml is driven through its C interface")]

use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::process::ExitCode;

use llama_cpp_sys_2 as ggml;

/// Width of the matrices: two blocks of the k-quants.
const WIDTH: i64 = 512;
const HEIGHT: i64 = 64;
/// One row goes through other kernels than a group of four and the rest.
const ROWS: [i64; 2] = [1, 7];
/// Relative error that 4-bit weights may have.
const TOLERANCE: f32 = 0.1;

/// Loads the kernels in `file` into this process.
pub fn load(file: &Path) -> bool {
    let Ok(path) = CString::new(file.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    // SAFETY: the path is a C string; ggml checks the file's version before it uses it.
    !unsafe { ggml::ggml_backend_load(path.as_ptr()) }.is_null()
}

/// What `stent __probe FILE` runs: success means that the kernels load and compute right.
pub fn child_main(file: &Path) -> ExitCode {
    // SAFETY: a null callback argument is allowed; the callback ignores what it gets.
    unsafe { ggml::ggml_log_set(Some(silent), std::ptr::null_mut()) };
    let works = match file == Path::new(super::OWN) {
        true => own_multiply_right(),
        false => load(file) && multiplies_right(),
    };
    if works {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

unsafe extern "C" fn silent(_: ggml::ggml_log_level, _: *const std::ffi::c_char, _: *mut c_void) {}

/// Stent's own kernels, with every number of rows that they have.
fn own_multiply_right() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        use crate::engine::kernels;
        let device = kernels::device();
        // SAFETY: the device lives as long as the process; the backend is checked for null before
        // its use.
        unsafe {
            let backend = ggml::ggml_backend_dev_init(device, std::ptr::null());
            let right =
                |kind| (1..=9).all(|rows| multiply(backend, kernels::buffer_type(), kind, rows));
            !backend.is_null() && right(ggml::GGML_TYPE_Q4_K) && right(ggml::GGML_TYPE_Q6_K)
        }
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

fn multiplies_right() -> bool {
    // SAFETY: only ggml objects made in this function are passed on, each is checked for null before
    // its use, and the process ends right after, which frees them.
    unsafe {
        let device = ggml::ggml_backend_dev_by_type(ggml::GGML_BACKEND_DEVICE_TYPE_CPU);
        if device.is_null() {
            return false;
        }
        let backend = ggml::ggml_backend_dev_init(device, std::ptr::null());
        if backend.is_null() {
            return false;
        }
        let types = [
            ggml::GGML_TYPE_Q4_K,
            ggml::GGML_TYPE_Q6_K,
            ggml::GGML_TYPE_Q8_0,
            ggml::GGML_TYPE_F16,
        ];
        buffer_types(device).into_iter().all(|buffers| {
            types.iter().all(|&kind| {
                ROWS.iter()
                    .all(|&rows| multiply(backend, buffers, kind, rows))
            })
        })
    }
}

/// The plain memory and those in which the kernels keep weights in an order of their own.
unsafe fn buffer_types(device: ggml::ggml_backend_dev_t) -> Vec<ggml::ggml_backend_buffer_type_t> {
    type Extra =
        unsafe extern "C" fn(ggml::ggml_backend_dev_t) -> *mut ggml::ggml_backend_buffer_type_t;
    const NAME: &CStr = c"ggml_backend_dev_get_extra_bufts";
    // SAFETY: the device is valid; the address that ggml gives for this name is a function of type
    // `Extra`, which returns a list that ends with null.
    unsafe {
        let mut all = vec![ggml::ggml_backend_dev_buffer_type(device)];
        let registry = ggml::ggml_backend_dev_backend_reg(device);
        let address = ggml::ggml_backend_reg_get_proc_address(registry, NAME.as_ptr());
        if !address.is_null() {
            let extra = std::mem::transmute::<*mut c_void, Extra>(address);
            let mut next = extra(device);
            while !next.is_null() && !(*next).is_null() {
                all.push(*next);
                next = next.add(1);
            }
        }
        all
    }
}

/// Multiplies one matrix of `kind` in memory of `buffers` and compares with plain arithmetic.
unsafe fn multiply(
    backend: ggml::ggml_backend_t,
    buffers: ggml::ggml_backend_buffer_type_t,
    kind: ggml::ggml_type,
    rows: i64,
) -> bool {
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
    let weights: Vec<f32> = (0..(WIDTH * HEIGHT) as usize).map(value).collect();
    let input: Vec<f32> = (0..(WIDTH * rows) as usize)
        .map(|i| value(i * 3 + 1))
        .collect();
    // SAFETY: all tensors live in contexts made here; sizes of the copies are those of the tensors.
    unsafe {
        let context = || {
            ggml::ggml_init(ggml::ggml_init_params {
                mem_size: 1 << 20,
                mem_buffer: std::ptr::null_mut(),
                no_alloc: true,
            })
        };
        let (stored, computed) = (context(), context());
        let a = ggml::ggml_new_tensor_2d(stored, kind, WIDTH, HEIGHT);
        let b = ggml::ggml_new_tensor_2d(computed, ggml::GGML_TYPE_F32, WIDTH, rows);
        let out = ggml::ggml_mul_mat(computed, a, b);
        if ggml::ggml_backend_alloc_ctx_tensors_from_buft(stored, buffers).is_null()
            || ggml::ggml_backend_alloc_ctx_tensors_from_buft(
                computed,
                ggml::ggml_backend_cpu_buffer_type(),
            )
            .is_null()
        {
            return false;
        }
        let mut packed = vec![0_u8; ggml::ggml_nbytes(a)];
        ggml::ggml_quantize_chunk(
            kind,
            weights.as_ptr(),
            packed.as_mut_ptr().cast(),
            0,
            HEIGHT,
            WIDTH,
            std::ptr::null(),
        );
        // A kind that the memory does not take is left to the plain memory.
        let device = ggml::ggml_backend_get_device(backend);
        if !ggml::ggml_backend_dev_supports_op(device, out) {
            return true;
        }
        ggml::ggml_backend_tensor_set(a, packed.as_ptr().cast(), 0, packed.len());
        ggml::ggml_backend_tensor_set(b, input.as_ptr().cast(), 0, input.len() * 4);
        let graph = ggml::ggml_new_graph(computed_graph_context());
        ggml::ggml_build_forward_expand(graph, out);
        if ggml::ggml_backend_graph_compute(backend, graph) != ggml::GGML_STATUS_SUCCESS {
            return false;
        }
        let mut result = vec![0_f32; (HEIGHT * rows) as usize];
        ggml::ggml_backend_tensor_get(out, result.as_mut_ptr().cast(), 0, result.len() * 4);
        close(&weights, &input, &result)
    }
}

/// A context for the graph's own few kilobytes.
unsafe fn computed_graph_context() -> *mut ggml::ggml_context {
    // SAFETY: ggml allocates the memory itself.
    unsafe {
        ggml::ggml_init(ggml::ggml_init_params {
            mem_size: 1 << 20,
            mem_buffer: std::ptr::null_mut(),
            no_alloc: false,
        })
    }
}

fn close(weights: &[f32], input: &[f32], result: &[f32]) -> bool {
    let (width, height) = (WIDTH as usize, HEIGHT as usize);
    result.iter().enumerate().all(|(i, &found)| {
        let weights = &weights[i % height * width..][..width];
        let input = &input[i / height * width..][..width];
        let right: f32 = weights.iter().zip(input).map(|(w, x)| w * x).sum();
        let scale: f32 = weights.iter().zip(input).map(|(w, x)| (w * x).abs()).sum();
        (found - right).abs() <= TOLERANCE * scale.max(1.0)
    })
}
