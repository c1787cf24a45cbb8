//! [`Ring`] over the real io_uring.

use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{self, CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use crate::config::UringConfig;
use crate::error::EngineError;
use crate::outgoing;
use crate::time::Nanos;
use crate::token::Token;
use crate::uring::address::Address;
use crate::uring::buf_ring::{BufRing, BufferMemory};
use crate::uring::ring::{Completion, Full, Op, Ring, SendMode, Wait};
use crate::uring::setup;

/// SOCKET_URING_OP_GETSOCKOPT, a command of IORING_OP_URING_CMD (io_uring_enter(2)): Linux 6.7.
const SOCKET_GETSOCKOPT: u32 = 2;
/// SO_PEERNAME (`asm-generic/socket.h`): the option at level SOL_SOCKET that is the peer's address.
const SO_PEERNAME: u32 = 28;

/// IORING_REGISTER_FILE_ALLOC_RANGE (io_uring_register_file_alloc_range(3)).
const REGISTER_FILE_ALLOC_RANGE: libc::c_uint = 25;

/// Waits for the outcome of a trial.
const TRIAL_WAITS: u32 = 100;
const TRIAL_WAIT: Duration = Duration::from_millis(10);

/// `struct io_uring_file_index_range`: the range in which the kernel looks for a free direct
/// descriptor.
#[repr(C)]
struct FileIndexRange {
    off: u32,
    len: u32,
    resv: u64,
}

/// An io_uring of the kernel, with its table of direct descriptors.
pub(crate) struct KernelRing {
    // Fields are dropped in order, so the ring is closed before it releases the memory of its
    // buffers. By then the engine has cancelled and awaited all operations (Core::quiesce), or it
    // leaks everything.
    ring: IoUring,
    _buffers: Rc<BufferMemory>,
    /// Timeout of the current wait, relative to its start. The engine itself uses points in time.
    wait: Timespec,
    /// Options of outgoing sockets.
    outgoing: outgoing::Options,
}

impl KernelRing {
    /// Creates a ring and its receive buffers. The table has `accepted` direct descriptors that the
    /// kernel assigns, then `connects` that the engine assigns.
    pub(crate) fn new(
        config: &UringConfig,
        accepted: u32,
        connects: u32,
    ) -> Result<(Self, BufRing), EngineError> {
        let ring = setup::ring(config)?;
        let buffers = BufRing::new(config.buffers, config.buffer_size)
            .map_err(EngineError::system("memory for receive buffers"))?;
        // SAFETY: the address is that of a mapping of this number of entries. The mapping outlives
        // the ring, because `_buffers` keeps it.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.address(),
                buffers.entries(),
                BufRing::GROUP,
                0,
            )
        }
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ENOMEM) => setup::out_of_locked_memory(&ring),
            _ => setup::too_old().unwrap_or_else(|| refused("buffer ring")(e)),
        })?;
        let (wait, outgoing) = (Timespec::new(), outgoing::Options::default());
        let this = Self { ring, _buffers: buffers.memory(), wait, outgoing };
        this.register_table(accepted, connects)?;
        Ok((this, buffers))
    }

    /// Sets the options of outgoing sockets.
    pub(crate) fn with_outgoing(self, outgoing: outgoing::Options) -> Self {
        Self { outgoing, ..self }
    }

    /// Enters the ring once; see [`setup::try_enter`].
    pub(crate) fn try_enter(&mut self) -> Result<(), EngineError> {
        setup::try_enter(&mut self.ring)
    }

    fn register_table(&self, accepted: u32, connects: u32) -> Result<(), EngineError> {
        let wanted = accepted.saturating_add(connects).max(1);
        self.ring.submitter().register_files_sparse(wanted).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EMFILE) => EngineError::Descriptors {
                    wanted: u64::from(wanted),
                    what: "the table of a worker's connections",
                    limit: setup::file_limit(),
                },
                _ => refused("table of direct descriptors")(source),
            }
        })?;
        if accepted == 0 || connects == 0 {
            return Ok(());
        }
        let range = FileIndexRange { off: 0, len: accepted, resv: 0 };
        // SAFETY: the argument is the structure that this registration takes, alive across the
        // call; the kernel only reads it.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.ring.as_raw_fd(),
                REGISTER_FILE_ALLOC_RANGE,
                &raw const range,
                0,
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(refused("range of direct descriptors")(io::Error::last_os_error()))
        }
    }

    fn entry(op: Op) -> Entry {
        match op {
            Op::Accept { listener, multishot: true, .. } => {
                opcode::AcceptMulti::new(Fd(listener)).allocate_file_index(true).build()
            }
            Op::Accept { listener, multishot: false, address } => {
                let (addr, len) = Address::as_ptrs(address);
                let slot = Some(types::DestinationSlot::auto_target());
                opcode::Accept::new(Fd(listener), addr, len).file_index(slot).build()
            }
            Op::PeerAddress { slot, address, len } => peer_address(opcode::SetSockOpt::new(
                Fixed(slot),
                libc::SOL_SOCKET as u32,
                SO_PEERNAME,
                Address::as_ptrs(address).0.cast_const().cast(),
                len,
            )),
            // Its first half; `push` adds the second.
            Op::HandOver { slot, to, token } => send_socket(Fd(to), slot, token.bits()),
            Op::Connect { slot, to } => {
                let (addr, len) = Address::as_parts(to);
                opcode::Connect::new(Fixed(slot), addr, len).build()
            }
            Op::Receive { slot, once: false } => {
                opcode::RecvMulti::new(Fixed(slot), BufRing::GROUP).build()
            }
            Op::Receive { slot, once: true } => {
                // A length of 0 means the whole buffer.
                let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
                    .buf_group(BufRing::GROUP);
                entry.build().flags(Flags::BUFFER_SELECT)
            }
            Op::Send { slot, bytes, len, mode } => {
                let (flags, silent) = send_flags(mode);
                with_silence(
                    opcode::Send::new(Fixed(slot), bytes, len).flags(flags).build(),
                    silent,
                )
            }
            Op::SendMessage { slot, message, mode } => {
                let (flags, silent) = send_flags(mode);
                let entry =
                    opcode::SendMsg::new(Fixed(slot), message).flags(flags.cast_unsigned()).build();
                with_silence(entry, silent)
            }
            Op::Shutdown { slot } => opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build(),
            Op::Cancel { target } => opcode::AsyncCancel::new(target.bits()).build(),
            Op::CancelAll => opcode::AsyncCancel2::new(CancelBuilder::any()).build(),
            Op::Close { slot } => opcode::Close::new(Fixed(slot)).build(),
            // The kernel always reports errors and hang-ups. It reports each once, and not
            // repeatedly while they last.
            Op::Watch { slot } => opcode::PollAdd::new(Fixed(slot), 0).multi(true).build(),
            Op::Poll { fd } => {
                opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build()
            }
        }
    }

    /// Submits the queued operations without running the work that the kernel has deferred.
    /// Operations that do not wait still finish inside the call, with their completions.
    fn submit_alone(&mut self) -> io::Result<usize> {
        let entries = self.ring.submission().len() as u32;
        // SAFETY: there is no argument; what the entries point at is valid by the promise of
        // Ring::push.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(entries, 0, 0, None) }
    }

    /// Sends `bytes` to `socket` in one enter, followed by a no-op. Returns the result of the send
    /// if it has a completion.
    fn trial_send(&mut self, socket: RawFd, bytes: &[u8]) -> io::Result<Option<i32>> {
        let (flags, _) = send_flags(SendMode::Silent);
        let send =
            opcode::Send::new(Fd(socket), bytes.as_ptr(), bytes.len() as u32).flags(flags).build();
        let send = with_silence(send, true).user_data(1);
        let marker = opcode::Nop::new().build().user_data(2);
        // SAFETY: `bytes` stays valid until the send has ended. The caller frees it only after the
        // results have shown that sends end inside their enter, and otherwise, also after an error,
        // leaks it.
        unsafe {
            self.ring
                .submission()
                .push_multiple(&[send, marker])
                .map_err(|_| io::ErrorKind::OutOfMemory)?;
        }
        self.submit_alone()?;
        let mut result = None;
        for completion in self.ring.completion() {
            if completion.user_data() == 1 {
                result = Some(completion.result());
            }
        }
        Ok(result)
    }
}

/// Turns the entry that would set a socket option into the one that reads it, which the crate
/// cannot make. The kernel writes to where the option's value would be read.
fn peer_address(option: opcode::SetSockOpt) -> Entry {
    /// Offset of `cmd_op` in `struct io_uring_sqe`.
    const COMMAND: usize = 8;
    const _: () = assert!(size_of::<Entry>() == 64, "an entry is a struct io_uring_sqe");
    let mut entry = option.build();
    // SAFETY: an entry is the kernel's 64 bytes of plain integers (`#[repr(C)]`). These four are
    // the command's number, for which every value is valid.
    unsafe {
        let command = (&raw mut entry).cast::<u8>().add(COMMAND).cast::<u32>();
        command.write_unaligned(SOCKET_GETSOCKOPT);
    }
    entry
}

/// Makes the entry that puts the socket in `slot` into a free direct descriptor of another ring.
/// The next entry closes `slot`, and only if this one succeeds. Then the pair has the completion of
/// the close, otherwise the one of this entry.
fn send_socket(to: Fd, slot: u32, user_data: u64) -> Entry {
    let free = types::DestinationSlot::auto_target();
    let entry = opcode::MsgRingSendFd::new(to, Fixed(slot), free, user_data).build();
    entry.flags(Flags::IO_LINK | Flags::SKIP_SUCCESS)
}

/// Returns a function that turns the error of registering `what` into an engine error.
fn refused(what: &'static str) -> impl Fn(io::Error) -> EngineError {
    setup::explain_call("io_uring_register", what)
}

/// Returns the flags of a send, and whether its success is silent. MSG_WAITALL makes a short send
/// count as failed, so that it has a completion even in silent mode. Together with MSG_DONTWAIT it
/// does not wait.
fn send_flags(mode: SendMode) -> (i32, bool) {
    match mode {
        SendMode::Silent => (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL, true),
        SendMode::Prompt => (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT, false),
        SendMode::Patient => (libc::MSG_NOSIGNAL, false),
    }
}

fn with_silence(entry: Entry, silent: bool) -> Entry {
    if silent { entry.flags(Flags::SKIP_SUCCESS) } else { entry }
}

impl Ring for KernelRing {
    fn clock(&self) -> Nanos {
        Nanos::monotonic()
    }

    unsafe fn push(&mut self, token: Token, op: Op) -> Result<(), Full> {
        let entry = Self::entry(op).user_data(token.bits());
        let mut queue = self.ring.submission();
        if let Op::HandOver { slot, .. } = op {
            let close = Self::entry(Op::Close { slot }).user_data(token.bits());
            // SAFETY: the two refer to no memory.
            return unsafe { queue.push_multiple(&[entry, close]) }.map_err(|_| Full);
        }
        // SAFETY: the caller promises that the memory to which the operation points stays valid
        // (Ring::push).
        unsafe { queue.push(&entry) }.map_err(|_| Full)
    }

    fn unsubmitted(&mut self) -> usize {
        self.ring.submission().len()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let done = match wait {
            Wait::Submit => self.submit_alone(),
            // GETEVENTS is set by the crate when task work or an overflow is flagged, which is when
            // it is needed.
            Wait::No => self.ring.submitter().submit(),
            Wait::Until(Nanos::NEVER) => self.ring.submitter().submit_and_wait(1),
            Wait::Until(at) => {
                let span = at.since(Nanos::monotonic()).max(Duration::from_nanos(1));
                self.wait = Timespec::from(span);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&self.wait))
            }
        };
        match done {
            Ok(_) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn completion(&mut self) -> Option<Completion> {
        let c = self.ring.completion().next()?;
        Some(Completion {
            token: Token::from_bits(c.user_data()),
            result: c.result(),
            buffer: cqueue::buffer_select(c.flags()),
            more: cqueue::more(c.flags()),
            unread: cqueue::sock_nonempty(c.flags()),
        })
    }

    fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    fn ready(&mut self) -> bool {
        !self.ring.completion().is_empty() || self.ring.submission().taskrun()
    }

    fn socket(&mut self, slot: u32, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()> {
        let socket: OwnedFd = outgoing::socket(to, from, &self.outgoing)?;
        self.ring.submitter().register_files_update(slot, &[socket.as_raw_fd()]).map(drop)
    }

    fn tells_peer_addresses(&mut self) -> io::Result<bool> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (ours, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // An unnamed peer's address is its family alone.
        let len = size_of::<libc::sa_family_t>() as u32;
        let mut address = ManuallyDrop::new(Box::new(Address::unset()));
        let to = Address::as_ptrs(&raw mut **address).0.cast_const().cast();
        let entry = peer_address(opcode::SetSockOpt::new(
            Fd(ours.as_raw_fd()),
            libc::SOL_SOCKET as u32,
            SO_PEERNAME,
            to,
            len,
        ));
        // SAFETY: the address stays valid until the operation has ended: it is leaked unless its
        // completion is there.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.submit_alone()?;
        let Some(done) = self.ring.completion().next() else { return Ok(false) };
        drop(ManuallyDrop::into_inner(address));
        Ok(done.result().cast_unsigned() == len)
    }

    fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring is open, and stays so during the call.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        Ok(rustix::io::fcntl_dupfd_cloexec(ring, 0)?)
    }

    fn hands_over(&mut self) -> io::Result<bool> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        const ARRIVED: u64 = 1;
        let mut other = setup::ring(&super::SMALL).map_err(io::Error::other)?;
        other.submitter().register_files_sparse(1)?;
        let (ours, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        self.ring.submitter().register_files_update(0, &[ours.as_raw_fd()])?;
        let op = Op::HandOver { slot: 0, to: other.as_raw_fd(), token: Token::from_bits(ARRIVED) };
        // SAFETY: the operation refers to no memory.
        unsafe { self.push(Token::from_bits(0), op) }.map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut own = None;
        for _ in 0..TRIAL_WAITS {
            // An interrupted wait is repeated.
            let _ = self.enter(Wait::Until(Nanos::monotonic() + TRIAL_WAIT));
            own = self.ring.completion().next().map(|done| done.result());
            if own.is_some() {
                break;
            }
        }
        let arrived = other.completion().next().map(|c| (c.user_data(), c.result()));
        if own != Some(0) {
            self.ring.submitter().register_files_update(0, &[-1])?;
        }
        Ok(own == Some(0) && arrived == Some((ARRIVED, 0)))
    }

    fn sends_finish_inside_enter(&mut self) -> io::Result<bool> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Larger than any default socket buffer, so that the kernel accepts a part of the second
        // send and nothing of the third. Leaked unless all sends are known to have ended.
        let bytes = ManuallyDrop::new(vec![0u8; 8 << 20]);
        let fits = self.trial_send(ours.as_raw_fd(), &bytes[..64])?;
        let partial = self.trial_send(ours.as_raw_fd(), &bytes)?;
        let full = self.trial_send(ours.as_raw_fd(), &bytes)?;
        drop(theirs);
        let partial_tells =
            partial.is_some_and(|n| n > 0 && (n.cast_unsigned() as usize) < bytes.len());
        let as_hoped = fits.is_none() && partial_tells && full == Some(-libc::EAGAIN);
        if as_hoped {
            drop(ManuallyDrop::into_inner(bytes));
        } else {
            tracing::info!(?fits, ?partial, ?full, "sends do not finish inside the enter here");
        }
        Ok(as_hoped)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::token::OpKind;
    use crate::uring::ring::BufferRing;

    fn push(ring: &mut KernelRing, kind: OpKind, op: Op) {
        // SAFETY: what the operations of this test point at is static.
        unsafe { ring.push(Token::new(kind, 0, 0), op) }.expect("room");
    }

    fn kinds(ring: &mut KernelRing) -> Vec<Option<OpKind>> {
        std::iter::from_fn(|| ring.completion()).map(|c| c.token.kind()).collect()
    }

    #[test]
    fn a_socket_moves_to_another_ring_or_stays() {
        let rings = [
            KernelRing::new(&super::super::SMALL, 2, 0),
            KernelRing::new(&super::super::SMALL, 1, 0),
        ];
        let [Ok((mut from, _)), Ok((mut to, _))] = rings else {
            let _ = writeln!(io::stderr(), "skipped: a socket moves: no rings");
            return;
        };
        if !from.hands_over().expect("a trial") {
            let _ = writeln!(io::stderr(), "skipped: a socket moves: the kernel cannot do it");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let fds = [listener.as_raw_fd(), listener.as_raw_fd()];
        from.ring.submitter().register_files_update(0, &fds).expect("two places");
        let descriptor = to.descriptor().expect("a descriptor");
        for (slot, result, arrived) in [(0, 0, Some(0)), (1, -libc::ENFILE, None)] {
            let token = Token::new(OpKind::TakeOver, 7, 0);
            push(
                &mut from,
                OpKind::HandOver,
                Op::HandOver { slot, to: descriptor.as_raw_fd(), token },
            );
            while !from.ready() {
                from.enter(Wait::Until(Nanos::monotonic() + TRIAL_WAIT)).expect("an enter");
            }
            from.enter(Wait::No).expect("an enter");
            let done: Vec<_> = std::iter::from_fn(|| from.completion()).map(|c| c.result).collect();
            assert_eq!(done, [result], "one completion of the pair");
            let there = to.completion().map(|c| (c.token.slot(), c.result));
            assert_eq!(there, arrived.map(|slot| (7, slot)));
            // The first place is free again, the second is not.
            let place = from.ring.submitter().register_files_update(slot, &[-1]);
            assert!(place.is_ok());
        }
    }

    #[test]
    fn an_enter_that_only_submits_receives_nothing() {
        let config = UringConfig {
            sq_entries: 8,
            cq_entries: 16,
            buffers: 2,
            buffer_size: 64,
            ..UringConfig::default()
        };
        let (mut ring, mut buffers) = match KernelRing::new(&config, 0, 1) {
            Ok(both) => both,
            Err(reason) => {
                let _ = writeln!(io::stderr(), "skipped: an enter that only submits: {reason}");
                return;
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client =
            TcpStream::connect(listener.local_addr().expect("bound")).expect("a connection");
        let (server, _) = listener.accept().expect("a connection");
        ring.ring.submitter().register_files_update(0, &[server.as_raw_fd()]).expect("a place");
        buffers.offer(0);
        buffers.publish();
        push(&mut ring, OpKind::Receive, Op::Receive { slot: 0, once: false });
        ring.enter(Wait::No).expect("armed");

        client.write_all(b"ping").expect("sent");
        while !ring.ready() {
            std::thread::yield_now();
        }
        if !kinds(&mut ring).is_empty() {
            let _ = writeln!(io::stderr(), "skipped: this kernel does not defer work");
            return;
        }
        let pong = Op::Send { slot: 0, bytes: b"pong".as_ptr(), len: 4, mode: SendMode::Prompt };
        push(&mut ring, OpKind::Send, pong);
        ring.enter(Wait::Submit).expect("submitted");
        assert_eq!(kinds(&mut ring), [Some(OpKind::Send)]);
        ring.enter(Wait::No).expect("entered");
        assert_eq!(kinds(&mut ring), [Some(OpKind::Receive)]);
    }
}
