//! SIGTERM and SIGINT: the first drains, the second exits at once.

use tokio::signal::unix::{SignalKind, signal};

use crate::util::tasks::Shutdown;

/// Exit code after a second signal.
const IMPATIENT: i32 = 130;

/// Triggers `shutdown` on the first signal.
pub fn stop_on_signals(shutdown: &Shutdown) -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let shutdown = shutdown.clone();
    // Lives as long as the process: nobody waits for it.
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if first {
                tracing::info!("stopping; a second signal exits at once");
                shutdown.trigger();
            } else {
                std::process::exit(IMPATIENT);
            }
        }
    });
    Ok(())
}
