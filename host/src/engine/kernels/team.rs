//! The threads: those that ggml's own kernels use. Both ask the same OpenMP runtime from the same
//! thread, so they get one team, which waits awake between two operations.

use std::ffi::{c_int, c_uint, c_void};

unsafe extern "C" {
    fn GOMP_parallel(
        body: extern "C" fn(*mut c_void),
        data: *mut c_void,
        threads: c_uint,
        flags: c_uint,
    );
    fn GOMP_barrier();
    fn omp_get_thread_num() -> c_int;
    fn omp_get_num_threads() -> c_int;
}

/// One thread's place in the team.
#[derive(Clone, Copy)]
pub struct Place {
    pub thread: usize,
    pub threads: usize,
}

impl Place {
    /// Waits until all threads are here. All of them must call it equally often.
    pub fn meet(self) {
        // SAFETY: only threads of a team have a `Place`; it is never stored.
        unsafe { GOMP_barrier() };
    }

    /// This thread's part of `0..len`.
    pub fn share(self, len: usize) -> std::ops::Range<usize> {
        len * self.thread / self.threads..len * (self.thread + 1) / self.threads
    }
}

/// Runs `body` on each of `threads` threads, this one among them, and returns when all are done.
/// A panic in `body` ends the process.
pub fn run<F: Fn(Place) + Sync>(threads: usize, body: &F) {
    extern "C" fn enter<F: Fn(Place) + Sync>(data: *mut c_void) {
        // SAFETY: `data` is the `body` below, which outlives the team.
        let body = unsafe { &*data.cast::<F>() };
        // SAFETY: plain questions to the runtime.
        let (thread, threads) = unsafe { (omp_get_thread_num(), omp_get_num_threads()) };
        body(Place {
            thread: thread as usize,
            threads: threads as usize,
        });
    }
    let data = std::ptr::from_ref(body).cast_mut().cast();
    // SAFETY: `enter` takes what `data` is, shares it only for reading (`Sync`), and all threads have
    // left it when this returns.
    unsafe { GOMP_parallel(enter::<F>, data, threads as c_uint, 0) };
}
