//! Where packed weights lie: pages of their own, in large pages where the system has them, locked in
//! RAM when the engine locks.

use std::cell::Cell;

thread_local! {
    /// Whether weights that this thread loads are locked (`engine.mlock`).
    pub static LOCK: Cell<bool> = const { Cell::new(false) };
    /// Whether the system refused to lock some of them.
    pub static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Anonymous memory, zeroed, aligned to a page.
#[derive(Debug)]
pub struct Pages {
    start: *mut u8,
    len: usize,
}

impl Pages {
    /// `None` when the system gives no more memory.
    pub fn new(len: usize) -> Option<Self> {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping without an address touches nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len.max(1), access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the range is the mapping's. Refused advice costs speed, no more.
        unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
        // SAFETY: as above.
        if LOCK.get() && unsafe { libc::mlock(start, len) } != 0 {
            REFUSED.set(true);
        }
        Some(Self {
            start: start.cast(),
            len,
        })
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn clear(&mut self, value: u8) {
        // SAFETY: the mapping is this value's alone while it is borrowed mutably.
        unsafe { self.start.write_bytes(value, self.len) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` and ends here.
        unsafe { libc::munmap(self.start.cast(), self.len.max(1)) };
    }
}
