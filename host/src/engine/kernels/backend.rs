//! The kernels as a ggml device of kind "accelerator": llama.cpp puts the weights that it takes into
//! its buffers while it loads, and hands it their products in every step.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use llama_cpp_sys_2 as ggml;

use super::abi::*;
use super::buffers::{self, kind};
use super::multiply::{Product, Workshop};
use super::pack::{BLOCK, TILE_ROWS};

/// How ggml's log names the device.
pub const NAME: &CStr = c"Stent";
const DESCRIPTION: &CStr = c"products of k-quants with few rows";
const GUID: [u8; 16] = *b"stent-kernels-v1";

thread_local! {
    /// True while this thread loads a model that shall use the device. llama.cpp asks an accelerator
    /// for one kind of memory and uses it for weights and for results; only weights may lie in the
    /// device's own order.
    pub static OFFERED: Cell<bool> = const { Cell::new(false) };
}

/// The three objects that ggml asks for, made once and never freed.
struct Objects {
    registry: RegistryObject,
    device: DeviceObject,
    buffers: BufferTypeObject,
}

/// A pointer to what lives as long as the process.
struct Forever(*mut Objects);
// SAFETY: ggml reads the objects from any thread; nobody writes to them after they are made.
unsafe impl Send for Forever {}
// SAFETY: as above.
unsafe impl Sync for Forever {}

fn objects() -> *mut Objects {
    static MADE: OnceLock<Forever> = OnceLock::new();
    MADE.get_or_init(|| {
        let all = Box::into_raw(Box::new(Objects {
            registry: RegistryObject {
                api_version: API_VERSION,
                calls: RegistryCalls {
                    get_name: registry_name,
                    get_device_count: device_count,
                    get_device,
                    get_proc_address,
                },
                context: null_mut(),
            },
            device: DeviceObject {
                calls: DeviceCalls {
                    get_name: device_name,
                    get_description,
                    get_memory,
                    get_type,
                    get_props,
                    init_backend,
                    get_buffer_type,
                    get_host_buffer_type: None,
                    buffer_from_host_ptr: None,
                    supports_op,
                    supports_buft,
                    offload_op: None,
                    event_new: None,
                    event_free: None,
                    event_synchronize: None,
                },
                registry: null_mut(),
                context: null_mut(),
            },
            buffers: buffers::object(),
        }));
        // SAFETY: the box was just made and nobody else has it yet.
        unsafe {
            (*all).device.registry = (&raw mut (*all).registry).cast();
            (*all).buffers.device = (&raw mut (*all).device).cast();
        }
        Forever(all)
    })
    .0
}

/// Tells ggml of the device. The processor must have the kernels' features.
pub fn register() {
    // SAFETY: the objects live as long as the process.
    unsafe { ggml::ggml_backend_register((&raw mut (*objects()).registry).cast()) };
}

/// The device, for those who drive it without llama.cpp.
pub fn device() -> Device {
    // SAFETY: as above.
    unsafe { (&raw mut (*objects()).device).cast() }
}

/// The memory of packed weights.
pub fn buffer_type() -> BufferType {
    // SAFETY: as above.
    unsafe { (&raw mut (*objects()).buffers).cast() }
}

// The registry.

unsafe extern "C" fn registry_name(_: Registry) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "C" fn device_count(_: Registry) -> usize {
    1
}

unsafe extern "C" fn get_device(_: Registry, _: usize) -> Device {
    device()
}

unsafe extern "C" fn get_proc_address(_: Registry, name: *const c_char) -> *mut c_void {
    // SAFETY: ggml asks with a C string.
    if unsafe { CStr::from_ptr(name) } == c"ggml_backend_set_n_threads" {
        return set_threads as *mut c_void;
    }
    null_mut()
}

unsafe extern "C" fn set_threads(backend: Backend, threads: c_int) {
    // SAFETY: ggml calls it with a backend of this device.
    unsafe { workshop(backend).threads = threads.max(1) as usize };
}

// The device.

unsafe extern "C" fn device_name(_: Device) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "C" fn get_description(_: Device) -> *const c_char {
    DESCRIPTION.as_ptr()
}

unsafe extern "C" fn get_memory(_: Device, free: *mut usize, total: *mut usize) {
    // It shares the host's memory and has none of its own.
    // SAFETY: ggml passes two places to write to.
    unsafe {
        *free = 0;
        *total = 0;
    }
}

unsafe extern "C" fn get_type(_: Device) -> ggml::ggml_backend_dev_type {
    ggml::GGML_BACKEND_DEVICE_TYPE_ACCEL
}

unsafe extern "C" fn get_props(device: Device, props: *mut ggml::ggml_backend_dev_props) {
    // SAFETY: ggml passes a place for the properties; without capabilities they are all zero.
    unsafe {
        props.write(std::mem::zeroed());
        (*props).name = device_name(device);
        (*props).description = get_description(device);
        (*props).type_ = get_type(device);
    }
}

unsafe extern "C" fn init_backend(device: Device, _: *const c_char) -> Backend {
    let Some(set) = super::dot::best() else {
        return null_mut();
    };
    let made = BackendObject {
        guid: &GUID,
        calls: BackendCalls {
            get_name: backend_name,
            free: backend_free,
            set_tensor_async: None,
            get_tensor_async: None,
            set_tensor_2d_async: None,
            get_tensor_2d_async: None,
            cpy_tensor_async: None,
            synchronize: None,
            graph_plan_create: None,
            graph_plan_free: None,
            graph_plan_update: None,
            graph_plan_compute: None,
            graph_compute,
            event_record: None,
            event_wait: None,
            graph_optimize: None,
        },
        device,
        context: Box::into_raw(Box::new(Workshop::new(set))).cast(),
    };
    Box::into_raw(Box::new(made)).cast()
}

unsafe extern "C" fn get_buffer_type(_: Device) -> BufferType {
    match OFFERED.get() {
        true => buffer_type(),
        // Results; and a loader passes over an accelerator without memory of its own.
        // SAFETY: a plain question.
        false => unsafe { ggml::ggml_backend_cpu_buffer_type() },
    }
}

unsafe extern "C" fn supports_op(_: Device, op: *const Tensor) -> bool {
    // SAFETY: ggml passes a tensor whose sources are set.
    unsafe {
        match (*op).op {
            ggml::GGML_OP_NONE
            | ggml::GGML_OP_RESHAPE
            | ggml::GGML_OP_VIEW
            | ggml::GGML_OP_PERMUTE
            | ggml::GGML_OP_TRANSPOSE => true,
            ggml::GGML_OP_MUL_MAT => product(op).is_some(),
            _ => false,
        }
    }
}

unsafe extern "C" fn supports_buft(_: Device, other: BufferType) -> bool {
    // SAFETY: ggml passes a valid buffer type.
    other == buffer_type() || unsafe { ggml::ggml_backend_buft_is_host(other) }
}

// A backend: the products of one context.

unsafe extern "C" fn backend_name(_: Backend) -> *const c_char {
    NAME.as_ptr()
}

/// The context of a backend that `init_backend` made.
unsafe fn workshop<'a>(backend: Backend) -> &'a mut Workshop {
    // SAFETY: the caller has such a backend; ggml drives one from one thread at a time.
    unsafe { &mut *(*backend.cast::<BackendObject>()).context.cast() }
}

unsafe extern "C" fn backend_free(backend: Backend) {
    // SAFETY: ggml frees a backend once; both boxes were made in `init_backend`.
    unsafe {
        drop(Box::from_raw(workshop(backend)));
        drop(Box::from_raw(backend.cast::<BackendObject>()));
    }
}

unsafe extern "C" fn graph_compute(backend: Backend, graph: *mut Graph) -> ggml::ggml_status {
    // SAFETY: ggml passes a graph whose nodes `supports_op` agreed to, with their memory.
    unsafe {
        for i in 0..ggml::ggml_graph_n_nodes(graph) {
            let node = ggml::ggml_graph_node(graph, i);
            if (*node).op != ggml::GGML_OP_MUL_MAT
                || (*node).flags & ggml::GGML_TENSOR_FLAG_COMPUTE as i32 == 0
            {
                continue;
            }
            match product(node) {
                Some(product) => workshop(backend).multiply(&product),
                None => return ggml::GGML_STATUS_FAILED,
            }
        }
    }
    ggml::GGML_STATUS_SUCCESS
}

/// The product that a `MUL_MAT` asks for, if it is one for these kernels: whole tiles of packed
/// weights, and rows of floats without gaps.
unsafe fn product(op: *const Tensor) -> Option<Product> {
    // SAFETY: the caller has a `MUL_MAT` whose sources are set.
    unsafe {
        let (weights, input) = ((*op).src[0], (*op).src[1]);
        let buffer = (*weights).buffer;
        if buffer.is_null() || ggml::ggml_backend_buffer_get_type(buffer) != buffer_type() {
            return None;
        }
        let [columns, outputs, 1, 1] = (*weights).ne else {
            return None;
        };
        let (columns, outputs) = (columns as usize, outputs as usize);
        let fits = columns.is_multiple_of(BLOCK) && outputs.is_multiple_of(TILE_ROWS);
        let floats = (*input).type_ == ggml::GGML_TYPE_F32 && (*op).type_ == ggml::GGML_TYPE_F32;
        if !fits || !floats || !ggml::ggml_is_contiguous(input) || !ggml::ggml_is_contiguous(op) {
            return None;
        }
        Some(Product {
            kind: kind((*weights).type_)?,
            tiles: (*weights).data.cast(),
            columns,
            outputs,
            input: (*input).data.cast(),
            rows: ggml::ggml_nrows(input) as usize,
            out: (*op).data.cast(),
        })
    }
}
