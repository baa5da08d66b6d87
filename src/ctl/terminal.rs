//! The user's terminal: raw mode while it lasts, and its size.

use std::io::IsTerminal;
use std::os::fd::BorrowedFd;

use nix::sys::termios::{self, SetArg, Termios};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::cx::Done;
use super::fail::Failure;
use crate::util::sys;

/// Raw mode; dropped, the terminal is as it was.
pub struct Raw {
    before: Termios,
}

fn stdin() -> std::io::Stdin {
    std::io::stdin()
}

impl Raw {
    /// Puts the terminal into raw mode; `None` where standard input is none.
    pub fn enter() -> Done<Option<Self>> {
        if !stdin().is_terminal() {
            return Ok(None);
        }
        let bad = |e: nix::Error| Failure::Plain(format!("cannot put the terminal into raw mode: {e}"));
        let before = termios::tcgetattr(fd(&stdin())).map_err(bad)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(fd(&stdin()), SetArg::TCSADRAIN, &raw).map_err(bad)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nobody is left to tell when this fails.
        let _ = termios::tcsetattr(fd(&stdin()), SetArg::TCSADRAIN, &self.before);
    }
}

fn fd(stdin: &std::io::Stdin) -> BorrowedFd<'_> {
    use std::os::fd::AsFd;
    stdin.as_fd()
}

/// Columns and rows now.
fn size() -> Option<(u16, u16)> {
    sys::terminal_size(&std::io::stdout()).or_else(|| sys::terminal_size(&stdin()))
}

/// Sends the size now and at each change, until nobody listens.
pub async fn send_sizes(to: mpsc::Sender<(u16, u16)>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some(size) = size()
            && to.send(size).await.is_err()
        {
            return;
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// Standard input for a command that may end while it is read: a thread of its own reads it, so that nothing waits for the
/// user's next key.
pub fn input() -> tokio::io::DuplexStream {
    /// Bytes that may wait.
    const BUFFER: usize = 64 * 1024;
    let (near, mut far) = tokio::io::duplex(BUFFER);
    let handle = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        use std::io::Read;
        use tokio::io::AsyncWriteExt;
        let mut buffer = vec![0; BUFFER / 2];
        loop {
            match stdin().read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    if handle.block_on(far.write_all(&buffer[..n])).is_err() {
                        return;
                    }
                }
            }
        }
        let _ = handle.block_on(far.shutdown());
    });
    near
}
