//! Memory that the kernel writes to.

use std::ptr::NonNull;

const PAGE: usize = 4096;

/// Zeroed memory that begins at a page. It is mapped, not allocated: allocators that clear what they hand out
/// would touch all of it, and most of it is never used.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// So many bytes, rounded up to pages. They take memory as they are touched.
    pub fn zeroed(bytes: usize) -> Self {
        let len = bytes.next_multiple_of(PAGE);
        assert!(len > 0, "there are buffers");
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, -1, 0) };
        assert!(start != libc::MAP_FAILED, "{len} bytes: {}", std::io::Error::last_os_error());
        Pages { start: NonNull::new(start.cast()).expect("a mapping is not at zero"), len }
    }

    /// Where they begin.
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are those of a mapping of our own, which is unmapped here only.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
