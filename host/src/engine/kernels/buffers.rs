//! The memory that llama.cpp loads weights into: it packs them as they come.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;

use llama_cpp_sys_2 as ggml;

use super::abi::*;
use super::backend::NAME;
use super::memory::Pages;
use super::pack::Kind;

/// This kind of memory, as ggml wants it described; the device is set by the caller.
pub fn object() -> BufferTypeObject {
    BufferTypeObject {
        calls: BufferTypeCalls {
            get_name: buffer_type_name,
            alloc_buffer,
            alloc_buffer_n: None,
            get_alignment,
            get_max_size: None,
            get_alloc_size,
            get_alloc_size_n: None,
            // Not the host's: its order is this device's own.
            is_host: None,
        },
        device: null_mut(),
        context: null_mut(),
    }
}

/// Kinds of weights that can be packed.
pub fn kind(of: ggml::ggml_type) -> Option<Kind> {
    match of {
        ggml::GGML_TYPE_Q4_K => Some(Kind::Q4K),
        ggml::GGML_TYPE_Q6_K => Some(Kind::Q6K),
        _ => None,
    }
}

unsafe extern "C" fn buffer_type_name(_: BufferType) -> *const c_char {
    NAME.as_ptr()
}

unsafe extern "C" fn get_alignment(_: BufferType) -> usize {
    64
}

unsafe extern "C" fn get_alloc_size(_: BufferType, tensor: *const Tensor) -> usize {
    // SAFETY: ggml passes a tensor.
    unsafe {
        match (kind((*tensor).type_), (*tensor).ne) {
            (Some(kind), [columns, rows, 1, 1]) => {
                kind.packed_bytes(columns as usize, rows as usize)
            }
            _ => ggml::ggml_nbytes(tensor),
        }
    }
}

unsafe extern "C" fn alloc_buffer(kind: BufferType, size: usize) -> Buffer {
    let Some(pages) = Pages::new(size) else {
        return null_mut();
    };
    let calls = BufferCalls {
        free_buffer,
        get_base,
        init_tensor: None,
        memset_tensor: None,
        set_tensor,
        get_tensor: None,
        set_tensor_2d: None,
        get_tensor_2d: None,
        cpy_tensor: None,
        clear,
        reset: None,
    };
    // SAFETY: the pages are freed in `free_buffer`, with the buffer.
    unsafe { ggml_backend_buffer_init(kind, calls, Box::into_raw(Box::new(pages)).cast(), size) }
}

/// The pages of one of this device's buffers.
unsafe fn pages<'a>(buffer: Buffer) -> &'a mut Pages {
    // SAFETY: the caller has a buffer that `alloc_buffer` made.
    unsafe { &mut *(*buffer.cast::<BufferObject>()).context.cast() }
}

unsafe extern "C" fn free_buffer(buffer: Buffer) {
    // SAFETY: ggml frees a buffer once.
    drop(unsafe { Box::from_raw(pages(buffer)) });
}

unsafe extern "C" fn get_base(buffer: Buffer) -> *mut c_void {
    // SAFETY: it is one of this device's buffers; ggml may ask from several threads.
    unsafe { &*(*buffer.cast::<BufferObject>()).context.cast::<Pages>() }
        .start()
        .cast()
}

unsafe extern "C" fn clear(buffer: Buffer, value: u8) {
    // SAFETY: it is one of this device's buffers.
    unsafe { pages(buffer) }.clear(value);
}

unsafe extern "C" fn set_tensor(
    _: Buffer,
    tensor: *mut Tensor,
    data: *const c_void,
    offset: usize,
    size: usize,
) {
    // SAFETY: ggml passes `size` bytes for a tensor that lies in one of this device's buffers, with
    // the room that `get_alloc_size` asked for.
    unsafe {
        let whole = offset == 0 && size == ggml::ggml_nbytes(tensor);
        let (Some(kind), true) = (kind((*tensor).type_), whole) else {
            // llama.cpp sets whole weights only; a part cannot be packed, and ggml takes no error here.
            let name = CStr::from_ptr((*tensor).name.as_ptr()).to_string_lossy();
            eprintln!(
                "stent: {size} bytes at {offset} of weight {name}: only whole Q4_K and Q6_K weights \
                 can be packed; engine.kernels = \"ggml\" does without"
            );
            std::process::abort();
        };
        let columns = (*tensor).ne[0] as usize;
        let packed = kind.packed_bytes(columns, (*tensor).ne[1] as usize);
        kind.pack(
            columns,
            std::slice::from_raw_parts(data.cast(), size),
            std::slice::from_raw_parts_mut((*tensor).data.cast(), packed),
        );
    }
}
