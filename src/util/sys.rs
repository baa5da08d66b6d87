//! The only module that may say `unsafe`: system calls that no safe wrapper covers.
//!
//! **Invariant:** every `unsafe` block states why it is sound.

/// Columns and rows of a terminal; `None` for what is no terminal, or has no size.
#[allow(unsafe_code)]
pub fn terminal_size(terminal: &impl std::os::fd::AsRawFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is valid and exclusively ours for the call.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}
