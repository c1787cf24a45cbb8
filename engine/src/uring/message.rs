//! Headers of sends that gather several pieces.

/// Most pieces of one send; a longer chain is copied into one buffer.
pub(super) const PIECES: usize = 16;

/// Headers of SENDMSG operations between their queueing and their submission.
#[derive(Default)]
pub(super) struct Messages {
    #[allow(
        clippy::vec_box,
        reason = "headers stay in place while the list grows: the kernel reads them at submission"
    )]
    all: Vec<Box<Message>>,
    used: usize,
}

struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; PIECES],
}

impl Messages {
    /// Makes all headers available again. All queued operations have been consumed: the kernel has
    /// copied their headers.
    pub(super) fn reuse(&mut self) {
        self.used = 0;
    }

    /// A header over `pieces`, in place until [`Messages::reuse`].
    pub(super) fn next(&mut self, pieces: &[libc::iovec]) -> *const libc::msghdr {
        if self.used == self.all.len() {
            let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
            // SAFETY: all zeroes is a valid msghdr: no name, no pieces, no control data.
            let header = unsafe { std::mem::zeroed() };
            self.all.push(Box::new(Message { header, pieces: [empty; PIECES] }));
        }
        let message = &mut *self.all[self.used];
        self.used += 1;
        message.pieces[..pieces.len()].copy_from_slice(pieces);
        message.header.msg_iov = message.pieces.as_mut_ptr();
        // musl declares it as an int, with padding: at most PIECES, so it fits.
        message.header.msg_iovlen = pieces.len() as _;
        &raw const message.header
    }
}
