//! llama.cpp's log, as tracing events; its last error is kept, because its functions tell only that
//! they failed.

#![expect(unsafe_code, reason = "llama.cpp hands its log to a C callback")]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};

thread_local! {
    static LAST_ERROR: RefCell<Option<String>> = const { RefCell::new(None) };
    static LOCK_REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// From here on llama.cpp and ggml log to tracing.
pub fn forward() {
    // SAFETY: `receive` matches the callback's type, needs no user data and lives for ever.
    unsafe {
        llama_cpp_sys_2::llama_log_set(Some(receive), std::ptr::null_mut());
        llama_cpp_sys_2::ggml_log_set(Some(receive), std::ptr::null_mut());
    }
}

/// The last error that llama.cpp logged on this thread since [`forget`].
pub fn last_error() -> Option<String> {
    LAST_ERROR.take()
}

/// Whether `mlock` was refused on this thread since [`forget`].
pub fn lock_refused() -> bool {
    LOCK_REFUSED.get()
}

pub fn forget() {
    LAST_ERROR.set(None);
    LOCK_REFUSED.set(false);
}

unsafe extern "C" fn receive(
    level: llama_cpp_sys_2::ggml_log_level,
    text: *const c_char,
    _: *mut c_void,
) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a C string that lives until this function returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim();
    if text.contains("failed to mlock") {
        LOCK_REFUSED.set(true);
    }
    match level {
        llama_cpp_sys_2::GGML_LOG_LEVEL_ERROR => {
            // Functions report their name first; what people need comes after it.
            let reason = text.split_once(": ").map_or(text, |(_, reason)| reason);
            // The first error names the cause, later ones only that loading failed.
            LAST_ERROR.with_borrow_mut(|last| {
                last.get_or_insert_with(|| reason.to_owned());
            });
            tracing::debug!(target: "llama.cpp", "{text}");
        }
        llama_cpp_sys_2::GGML_LOG_LEVEL_WARN => tracing::debug!(target: "llama.cpp", "{text}"),
        _ if text.is_empty() || text == "." => {}
        _ => tracing::trace!(target: "llama.cpp", "{text}"),
    }
}
