//! ggml's interface for backends (ggml-backend-impl.h), of which llama-cpp-sys-2 has only the outer
//! part. It holds for [`API_VERSION`] of the pinned llama.cpp; ggml refuses a backend of another one.

use std::ffi::{c_char, c_int, c_void};

use llama_cpp_sys_2 as ggml;

pub use ggml::{
    ggml_backend_buffer_t as Buffer, ggml_backend_buffer_type_t as BufferType,
    ggml_backend_dev_t as Device, ggml_backend_reg_t as Registry, ggml_backend_t as Backend,
    ggml_cgraph as Graph, ggml_tensor as Tensor,
};

pub const API_VERSION: c_int = 3;

/// A function that this backend does not have.
type Absent = Option<unsafe extern "C" fn()>;

#[repr(C)]
pub struct BufferTypeCalls {
    pub get_name: unsafe extern "C" fn(BufferType) -> *const c_char,
    pub alloc_buffer: unsafe extern "C" fn(BufferType, usize) -> Buffer,
    pub alloc_buffer_n: Absent,
    pub get_alignment: unsafe extern "C" fn(BufferType) -> usize,
    pub get_max_size: Absent,
    pub get_alloc_size: unsafe extern "C" fn(BufferType, *const Tensor) -> usize,
    pub get_alloc_size_n: Absent,
    pub is_host: Absent,
}

#[repr(C)]
pub struct BufferTypeObject {
    pub calls: BufferTypeCalls,
    pub device: Device,
    pub context: *mut c_void,
}

#[repr(C)]
pub struct BufferCalls {
    pub free_buffer: unsafe extern "C" fn(Buffer),
    pub get_base: unsafe extern "C" fn(Buffer) -> *mut c_void,
    pub init_tensor: Absent,
    pub memset_tensor: Absent,
    pub set_tensor: unsafe extern "C" fn(Buffer, *mut Tensor, *const c_void, usize, usize),
    pub get_tensor: Absent,
    pub set_tensor_2d: Absent,
    pub get_tensor_2d: Absent,
    pub cpy_tensor: Absent,
    pub clear: unsafe extern "C" fn(Buffer, u8),
    pub reset: Absent,
}

#[repr(C)]
pub struct BufferObject {
    pub calls: BufferCalls,
    pub buffer_type: BufferType,
    pub context: *mut c_void,
    pub size: usize,
    pub usage: c_int,
}

#[repr(C)]
pub struct BackendCalls {
    pub get_name: unsafe extern "C" fn(Backend) -> *const c_char,
    pub free: unsafe extern "C" fn(Backend),
    pub set_tensor_async: Absent,
    pub get_tensor_async: Absent,
    pub set_tensor_2d_async: Absent,
    pub get_tensor_2d_async: Absent,
    pub cpy_tensor_async: Absent,
    pub synchronize: Absent,
    pub graph_plan_create: Absent,
    pub graph_plan_free: Absent,
    pub graph_plan_update: Absent,
    pub graph_plan_compute: Absent,
    pub graph_compute: unsafe extern "C" fn(Backend, *mut Graph) -> ggml::ggml_status,
    pub event_record: Absent,
    pub event_wait: Absent,
    pub graph_optimize: Absent,
}

#[repr(C)]
pub struct BackendObject {
    pub guid: *const [u8; 16],
    pub calls: BackendCalls,
    pub device: Device,
    pub context: *mut c_void,
}

#[repr(C)]
pub struct DeviceCalls {
    pub get_name: unsafe extern "C" fn(Device) -> *const c_char,
    pub get_description: unsafe extern "C" fn(Device) -> *const c_char,
    pub get_memory: unsafe extern "C" fn(Device, *mut usize, *mut usize),
    pub get_type: unsafe extern "C" fn(Device) -> ggml::ggml_backend_dev_type,
    pub get_props: unsafe extern "C" fn(Device, *mut ggml::ggml_backend_dev_props),
    pub init_backend: unsafe extern "C" fn(Device, *const c_char) -> Backend,
    pub get_buffer_type: unsafe extern "C" fn(Device) -> BufferType,
    pub get_host_buffer_type: Absent,
    pub buffer_from_host_ptr: Absent,
    pub supports_op: unsafe extern "C" fn(Device, *const Tensor) -> bool,
    pub supports_buft: unsafe extern "C" fn(Device, BufferType) -> bool,
    pub offload_op: Absent,
    pub event_new: Absent,
    pub event_free: Absent,
    pub event_synchronize: Absent,
}

#[repr(C)]
pub struct DeviceObject {
    pub calls: DeviceCalls,
    pub registry: Registry,
    pub context: *mut c_void,
}

#[repr(C)]
pub struct RegistryCalls {
    pub get_name: unsafe extern "C" fn(Registry) -> *const c_char,
    pub get_device_count: unsafe extern "C" fn(Registry) -> usize,
    pub get_device: unsafe extern "C" fn(Registry, usize) -> Device,
    pub get_proc_address: unsafe extern "C" fn(Registry, *const c_char) -> *mut c_void,
}

#[repr(C)]
pub struct RegistryObject {
    pub api_version: c_int,
    pub calls: RegistryCalls,
    pub context: *mut c_void,
}

unsafe extern "C" {
    pub fn ggml_backend_buffer_init(
        buffer_type: BufferType,
        calls: BufferCalls,
        context: *mut c_void,
        size: usize,
    ) -> Buffer;
}
