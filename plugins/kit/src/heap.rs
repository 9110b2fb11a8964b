//! The memory of a policy: Rust's own allocator, begun on room that the module has from its start.
//!
//! An instance serves one request. Memory that it asks for must be opened by the host, and closed again for the
//! next instance, and each of these interrupts every processor of the gateway: it costs more than
//! most policies do. What a request needs usually fits what is there.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use dlmalloc::{Allocator, Dlmalloc};

/// Enough for a conversation of ordinary length.
const ROOM: usize = 128 << 10;
const PAGE: usize = 64 << 10;

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Dlmalloc::new_with_allocator(Module)));

#[repr(align(16))]
struct Room(UnsafeCell<[u8; ROOM]>);

static FIRST: Room = Room(UnsafeCell::new([0; ROOM]));
static GIVEN: AtomicBool = AtomicBool::new(false);

// SAFETY: a policy has one thread. `FIRST` is given out once, to the allocator.
unsafe impl Sync for Room {}

/// Where memory comes from: first what the module starts with, then what the host adds.
struct Module;

// SAFETY: every region is given out once and never taken back; all of them start as zeros.
unsafe impl Allocator for Module {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        if size <= ROOM && !GIVEN.swap(true, Ordering::Relaxed) {
            return (FIRST.0.get().cast(), ROOM, 0);
        }
        let pages = size.div_ceil(PAGE);
        match core::arch::wasm32::memory_grow(0, pages) {
            usize::MAX => (core::ptr::null_mut(), 0, 0),
            before => ((before * PAGE) as *mut u8, pages * PAGE, 0),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        core::ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

struct Heap(UnsafeCell<Dlmalloc<Module>>);

// SAFETY: a policy has one thread, and the allocator calls nothing that would call it again.
unsafe impl Sync for Heap {}

// SAFETY: all four pass on to an allocator that keeps these promises; its only user is this one.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { (*self.0.get()).free(ptr, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        unsafe { (*self.0.get()).realloc(ptr, layout.size(), layout.align(), size) }
    }
}
