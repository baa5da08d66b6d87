//! `orch bench wire`: bytes from one machine to another, as fast as one connection carries them.
//!
//! In: an address. Out: one line of JSON. `scripts/bench/overlay.sh` runs it over the overlay and beside it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

/// Bytes written at a time.
const CHUNK: usize = 128 << 10;
/// A connection that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `orch bench wire`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, Subcommand)]
enum Side {
    /// Takes what comes over one connection
    Receive {
        /// Where to listen
        #[arg(value_name = "IP:PORT")]
        at: SocketAddr,
    },
    /// Sends for some seconds, and tells how much arrived
    Send {
        /// Who receives
        #[arg(value_name = "IP:PORT")]
        to: SocketAddr,
        /// How long
        #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
        /// Name of the figure
        #[arg(long, value_name = "NAME", default_value = "wire")]
        figure: String,
    },
}

/// Runs one side.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.side {
        Side::Receive { at } => receive(*at),
        Side::Send { to, seconds, figure } => send(*to, Duration::from_secs(*seconds), figure),
    }
}

/// Takes everything, then tells how much it was.
fn receive(at: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    let (mut stream, _) = listener.accept()?;
    let (mut buffer, mut total) = (vec![0; CHUNK], 0u64);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())?;
    Ok(())
}

fn send(to: SocketAddr, time: Duration, figure: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))?;
    let (chunk, began) = (vec![0; CHUNK], Instant::now());
    while began.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total).context("the receiver did not tell what arrived")?;
    let megabits = u64::from_be_bytes(total) as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64();
    println!("{}", json!({"figure": figure, "value": megabits.round(), "unit": "Mbit/s", "budget": null}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives() {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let receiver = std::thread::spawn(move || receive(at));
        let end = Instant::now() + PATIENCE;
        while let Err(error) = send(at, Duration::from_millis(20), "test") {
            assert!(Instant::now() < end, "{error:#}");
        }
        receiver.join().unwrap().unwrap();
    }
}
