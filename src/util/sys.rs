//! The only module that may say `unsafe`: system calls that no safe wrapper covers.
//!
//! **Invariant:** every `unsafe` block states why it is sound.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Options of the allocator, where it looks for them: a string that ends in NUL.
///
/// - `background_thread`: freed pages go back to the system also when nobody allocates any more, which is when a quiet
///   server should be small; one thread, which sleeps while there is nothing to give back.
/// - `dirty_decay_ms`, `muzzy_decay_ms`: a second after they were last used, and then at once; the defaults keep them ten
///   seconds and then keep their addresses resident.
/// - `narenas`: the default of four a core keeps the rest of so many half-used runs apart; threads have caches of their
///   own before the arenas.
#[allow(unsafe_code)]
// SAFETY: the allocator declares this symbol as a weak `const char *`, reads it once and never writes to it.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8; 95] =
    b"background_thread:true,max_background_threads:1,dirty_decay_ms:1000,muzzy_decay_ms:0,narenas:2\0";

/// A descriptor that becomes readable when the process ends; the process need not be a child.
///
/// Errors: `ESRCH` when there is no such process.
#[allow(unsafe_code)]
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: takes two integers and no pointer; flags 0 is always valid.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor (close-on-exec) and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the command a daemon of its own: the leader of a session, so that no signal of our terminal or group reaches it,
/// with the usual mask for the files that it makes, whatever ours is.
#[allow(unsafe_code)]
pub fn as_daemon(command: &mut Command) -> &mut Command {
    let before_exec = || {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        nix::unistd::setsid().map(drop).map_err(io::Error::from)
    };
    // SAFETY: umask(2) and setsid(2) are async-signal-safe, allocate nothing and touch no memory of the parent.
    unsafe { command.pre_exec(before_exec) }
}

/// Lets the calling thread wait for others where all cores are busy, as work that nobody needs at once (`SCHED_BATCH`): what
/// it waits for gathers meanwhile. It gets its fair share all the same, and where a core is idle it begins at once.
#[allow(unsafe_code)]
pub fn gather_work() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // The call itself: musl's function for it only says that it is not there.
    // SAFETY: the kernel reads one sched_param from the pointer, which is valid for the call; 0 is the calling thread.
    match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const none) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a netlink socket a member of a group of messages, or no member any more.
#[allow(unsafe_code)]
pub fn netlink_membership(socket: &impl AsFd, group: libc::c_int, member: bool) -> io::Result<()> {
    let option = if member { libc::NETLINK_ADD_MEMBERSHIP } else { libc::NETLINK_DROP_MEMBERSHIP };
    let (fd, size) = (socket.as_fd().as_raw_fd(), std::mem::size_of_val(&group) as libc::socklen_t);
    // SAFETY: the descriptor is open for the whole call, and the kernel reads an int, no more, from where the pointer leads.
    let failed = unsafe { libc::setsockopt(fd, libc::SOL_NETLINK, option, std::ptr::from_ref(&group).cast(), size) };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Registers a descriptor with the runtime, to wait until it can be read.
#[allow(unsafe_code)]
pub fn wait_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: what is registered owns its descriptor, keeps it open for as long as it lives, and never exchanges it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Columns and rows of a terminal; `None` for what is no terminal, or has no size.
#[allow(unsafe_code)]
pub fn terminal_size(terminal: &impl std::os::fd::AsRawFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is valid and exclusively ours for the call.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}
