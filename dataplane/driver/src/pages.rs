//! Memory that the kernel writes to.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

const PAGE: usize = 4096;

/// Zeroed memory that begins at a page.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    layout: Layout,
}

impl Pages {
    /// So many bytes, rounded up to pages. They take memory as they are touched.
    pub fn zeroed(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.next_multiple_of(PAGE), PAGE)
            .expect("buffers are far smaller than the address space");
        assert!(layout.size() > 0, "there are buffers");
        // SAFETY: the size is not zero, as asserted above.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Pages { start, layout }
    }

    /// Where they begin.
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this layout, and is freed here only.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
