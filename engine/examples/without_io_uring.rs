//! `without_io_uring [--only CALL] COMMAND ARGS...`: runs a command as on a host that refuses
//! io_uring.
//!
//! Installs a seccomp filter (seccomp(2)) and then replaces itself with the command. As Docker's
//! default profile does, the filter answers `io_uring_setup`, `io_uring_enter` and
//! `io_uring_register`, or only one of them, with EPERM. The filter holds for the command and
//! everything it starts. Needs no privileges: `no_new_privs` is set, so set-user-ID programs do not
//! gain any either.

#![allow(
    unsafe_code,
    reason = "a program that installs a seccomp filter; neither std nor rustix can, and libc's functions are unsafe"
)]

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use libc::{c_long, c_ulong, sock_filter, sock_fprog};

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1).peekable();
    let refused: Vec<c_long> = match words
        .next_if(|word| word == "--only")
        .and_then(|_| words.next())
    {
        Some(name) => {
            CALLS.iter().filter(|(known, _)| name == *known).map(|(_, number)| *number).collect()
        }
        None => CALLS.iter().map(|(_, number)| *number).collect(),
    };
    let Some(program) = words.next().filter(|_| !refused.is_empty()) else {
        eprintln!("usage: without_io_uring [--only CALL] COMMAND [ARGS...]");
        return ExitCode::from(2);
    };
    if let Err(error) = refuse(&refused) {
        eprintln!("without_io_uring: cannot install the seccomp filter: {error}");
        return ExitCode::from(1);
    }
    let error = Command::new(&program).args(words).exec();
    eprintln!("without_io_uring: cannot run {}: {error}", program.display());
    // Exit status of a shell for a command that it cannot run.
    ExitCode::from(127)
}

const CALLS: [(&str, c_long); 3] = [
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
];

/// Makes these system calls fail with EPERM in this process and in all processes that it starts.
fn refuse(calls: &[c_long]) -> io::Result<()> {
    let mut filter = filter(calls)?;
    let program = sock_fprog {
        len: u16::try_from(filter.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        filter: filter.as_mut_ptr(),
    };
    const NONE: c_ulong = 0;
    // Without it the kernel lets only privileged processes install a filter (seccomp(2), EACCES).
    // SAFETY: PR_SET_NO_NEW_PRIVS takes four integers, the last three of which must be zero; no
    // memory is passed.
    let promised =
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as c_ulong, NONE, NONE, NONE) };
    check(promised.into())?;
    // SAFETY: with SECCOMP_SET_MODE_FILTER and no flags the third argument is a pointer to a
    // `sock_fprog`. `program` is one; its `filter` points at `filter`, which has `len` initialised
    // elements and lives until the end of this function. The kernel copies both before the call
    // returns and writes to neither.
    let installed = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, NONE, &raw const program)
    };
    check(installed)
}

fn check(result: i64) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the filter, in classic BPF over `struct seccomp_data { int nr; __u32 arch; ... }`.
fn filter(refused: &[c_long]) -> io::Result<Vec<sock_filter>> {
    const NUMBER_AT: u32 = 0;
    const ARCHITECTURE_AT: u32 = 4;

    // System calls have other numbers in another architecture's table (a 32-bit process on a 64-bit
    // kernel): there the filter would refuse something else, so it ends such a process instead.
    let mut filter = vec![
        load(ARCHITECTURE_AT),
        skip_if_equal(native_architecture()?, 1),
        give(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER_AT),
    ];
    for (index, number) in refused.iter().enumerate() {
        let number =
            u32::try_from(*number).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        // The jump skips the remaining comparisons and the line that allows.
        let to_refusal = refused.len() - index;
        filter.push(skip_if_equal(number, to_refusal as u8));
    }
    filter.push(give(libc::SECCOMP_RET_ALLOW));
    filter.push(give(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32));
    Ok(filter)
}

/// Returns `AUDIT_ARCH_*` of the architecture this was compiled for (linux/audit.h): ELF machine,
/// 64-bit, little-endian.
fn native_architecture() -> io::Result<u32> {
    const BITS_64: u32 = 0x8000_0000;
    const LITTLE_ENDIAN: u32 = 0x4000_0000;
    let machine = match env::consts::ARCH {
        "x86_64" => libc::EM_X86_64,
        "aarch64" => libc::EM_AARCH64,
        "riscv64" => libc::EM_RISCV,
        other => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("architecture {other} is unknown"),
            ));
        }
    };
    Ok(u32::from(machine) | BITS_64 | LITTLE_ENDIAN)
}

/// Loads the 32-bit word at `offset` of `seccomp_data` into the accumulator.
fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

/// Ends the filter with `action`.
fn give(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

/// Skips `lines` where the accumulator equals `value`.
fn skip_if_equal(value: u32, lines: u8) -> sock_filter {
    sock_filter { jt: lines, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value) }
}

fn statement(code: u32, k: u32) -> sock_filter {
    // Every code of classic BPF fits 16 bits; libc declares the parts wider.
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
