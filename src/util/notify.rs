//! Word to the service manager that started the process (`sd_notify`), and its watchdog.
//!
//! In: `$NOTIFY_SOCKET`, `$WATCHDOG_USEC`, `$WATCHDOG_PID`. Out: datagrams of `KEY=VALUE` lines. Without a manager
//! everything here does nothing.
//!
//! **Invariant:** the watchdog is fed only after a look at what the process is there for; a look that fails or takes too
//! long leaves it hungry, and the manager starts the process again.
//!
//! Protocol: systemd's `sd_notify(3)`, `sd_watchdog_enabled(3)`.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::util::tasks::Shutdown;

/// Environment variables of the protocol.
const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// Looks within the time after which the manager loses patience: one that fails may be made good by the next.
const LOOKS_PER_PERIOD: u32 = 3;

/// What the manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    /// The start is over, the service does its work; with a line for people.
    Ready(&'a str),
    /// A line for people, as `systemctl status` shows it.
    Status(&'a str),
    /// The service is on its way out.
    Stopping,
    /// The service is alive.
    Watchdog,
}

impl Word<'_> {
    fn text(self) -> String {
        // A status is one line.
        let line = |text: &str| text.replace('\n', " ");
        match self {
            Self::Ready(status) => format!("READY=1\nSTATUS={}", line(status)),
            Self::Status(status) => format!("STATUS={}", line(status)),
            Self::Stopping => "STOPPING=1\nSTATUS=stopping".to_owned(),
            Self::Watchdog => "WATCHDOG=1".to_owned(),
        }
    }
}

/// The way to the service manager.
#[derive(Debug)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    period: Option<Duration>,
}

impl Notify {
    /// As the environment says. An address that is none is told once and then ignored: a service that works is worth more
    /// than its manager's knowledge of it.
    pub fn from_env() -> Self {
        let env = |name: &str| std::env::var_os(name);
        let period = period(
            env(WATCHDOG_USEC).and_then(|v| v.into_string().ok()).as_deref(),
            env(WATCHDOG_PID).and_then(|v| v.into_string().ok()).as_deref(),
            std::process::id(),
        );
        let Some(name) = env(SOCKET).filter(|v| !v.is_empty()) else { return Self { socket: None, period: None } };
        let opened = address(name.as_bytes()).and_then(|to| Ok((UnixDatagram::unbound()?, to)));
        match opened {
            Ok((socket, to)) => Self { socket: Some((socket, to)), period },
            Err(error) => {
                tracing::warn!("cannot reach the service manager at {}: {error}", name.to_string_lossy());
                Self { socket: None, period: None }
            }
        }
    }

    /// True when there is a manager to tell.
    pub fn is_managed(&self) -> bool {
        self.socket.is_some()
    }

    /// Tells the manager. A manager that does not listen is not our trouble.
    pub fn tell(&self, word: Word<'_>) {
        let Some((socket, to)) = &self.socket else { return };
        // A send to a manager whose queue is full would wait for it.
        let sent = socket.set_nonblocking(true).and_then(|()| socket.send_to_addr(word.text().as_bytes(), to));
        if let Err(error) = sent {
            tracing::debug!(?word, "the service manager does not listen: {error}");
        }
    }

    /// Looks now and then, and tells the manager that the service is alive whenever it is. Ends with the shutdown, and at
    /// once when the manager does not ask for it.
    pub async fn feed_watchdog<F>(&self, stop: &Shutdown, mut look: impl FnMut() -> F)
    where
        F: Future<Output = Result<(), String>>,
    {
        let Some(period) = self.period else { return };
        let every = period / LOOKS_PER_PERIOD;
        let mut hungry = false;
        loop {
            let looked = tokio::time::timeout(every, look())
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", every.as_secs_f32())));
            match looked {
                Ok(()) => {
                    self.tell(Word::Watchdog);
                    if std::mem::take(&mut hungry) {
                        tracing::info!("healthy again");
                    }
                }
                Err(why) => {
                    tracing::error!("not healthy, the service manager will start orch again soon: {why}");
                    self.tell(Word::Status(&format!("not healthy: {why}")));
                    hungry = true;
                }
            }
            if stop.or(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }
}

/// A path, or with a leading `@` a name in the abstract namespace.
fn address(name: &[u8]) -> std::io::Result<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        _ => Err(std::io::Error::other("neither a path nor an abstract socket")),
    }
}

/// How long the manager's watchdog waits; none when it does not wait for this process.
fn period(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(own));
    usec.filter(|_| is_ours)?.parse().ok().filter(|usec| *usec > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::*;

    #[test_case(Some("30000000"), None => Some(Duration::from_secs(30)); "for everybody")]
    #[test_case(Some("30000000"), Some("7") => Some(Duration::from_secs(30)); "for this process")]
    #[test_case(Some("30000000"), Some("8") => None; "for another")]
    #[test_case(Some("0"), None => None; "switched off")]
    #[test_case(Some("soon"), None => None; "garbled")]
    #[test_case(None, None => None; "no watchdog")]
    fn watchdog_periods(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
        period(usec, pid, 7)
    }

    #[test_case(b"/run/x" => true)]
    #[test_case(b"@abstract" => true)]
    #[test_case(b"vsock:2:1" => false; "a kind we do not speak")]
    #[test_case(b"" => false; "nothing")]
    fn addresses(name: &[u8]) -> bool {
        address(name).is_ok()
    }

    fn listening(name: &SocketAddr) -> (UnixDatagram, Notify) {
        let manager = UnixDatagram::bind_addr(name).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let socket = Some((UnixDatagram::unbound().unwrap(), name.clone()));
        (manager, Notify { socket, period: Some(Duration::from_millis(30)) })
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut message = [0; 512];
        let n = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..n]).into_owned()
    }

    #[test]
    fn words_arrive_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let unique = format!("orch-notify-{}", std::process::id());
        for name in [
            SocketAddr::from_pathname(dir.path().join("s")).unwrap(),
            SocketAddr::from_abstract_name(unique.as_bytes()).unwrap(),
        ] {
            let (manager, notify) = listening(&name);
            notify.tell(Word::Ready("up\nand well"));
            assert_eq!(heard(&manager), "READY=1\nSTATUS=up and well");
            notify.tell(Word::Stopping);
            assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=stopping");
        }
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        let notify = Notify { socket: None, period: None };
        notify.tell(Word::Watchdog);
        assert!(!notify.is_managed());
    }

    #[tokio::test]
    async fn the_watchdog_starves_while_a_look_fails_or_hangs() {
        let name = SocketAddr::from_abstract_name(format!("orch-watchdog-{}", std::process::id())).unwrap();
        let (manager, notify) = listening(&name);
        let (stop, mut looks) = (Shutdown::new(), 0);
        let ending = stop.clone();
        notify
            .feed_watchdog(&stop, || {
                looks += 1;
                let (look, ending) = (looks, ending.clone());
                async move {
                    match look {
                        1 => Ok(()),
                        2 => Err("the store is stuck".to_owned()),
                        3 => std::future::pending().await,
                        _ => {
                            ending.trigger();
                            Ok(())
                        }
                    }
                }
            })
            .await;
        let told: Vec<String> = (0..4).map(|_| heard(&manager)).collect();
        assert_eq!(told[0], "WATCHDOG=1");
        assert_eq!(told[1], "STATUS=not healthy: the store is stuck");
        assert!(told[2].starts_with("STATUS=not healthy: no answer within"), "{}", told[2]);
        assert_eq!(told[3], "WATCHDOG=1");
    }
}
