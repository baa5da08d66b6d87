//! Logs: one line an event, to standard error.

use tracing_subscriber::EnvFilter;

/// Starts logging. `filter` is tracing's directive syntax; `ORCH_LOG` wins over it.
pub fn init(filter: &str, json: bool) {
    let env = std::env::var("ORCH_LOG").unwrap_or_else(|_| filter.to_owned());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(env))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second call (tests) keeps the first subscriber.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}
