//! Tries what the network of pods is made of, in a network namespace that nobody else sees and that ends with the try.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use nix::sched::{CloneFlags, unshare};
use nlink::Route;
use nlink::netlink::connection::Connection;
use nlink::netlink::link::{BridgeLink, VethLink, VxlanLink};

use crate::util::families::Family;
use crate::util::nft;

/// A network identifier; which one does not matter where nobody else is.
const VNI: u32 = 1;

type Tried = Result<(), String>;

/// Each feature, and why it did not work. Needs root; without a namespace of its own nothing is tried.
pub fn features() -> BTreeMap<&'static str, Tried> {
    // A thread of its own: it alone leaves the network of the machine.
    let tried = std::thread::spawn(|| -> Option<BTreeMap<&'static str, Tried>> {
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        Some(runtime.block_on(all()))
    });
    tried.join().ok().flatten().unwrap_or_default()
}

async fn all() -> BTreeMap<&'static str, Tried> {
    [("bridge", bridge().await), ("veth", veth().await), ("vxlan", vxlan().await), ("nf_tables", tables().await)]
        .into_iter()
        .map(|(name, tried)| (name, tried.map_err(|e| e.to_string())))
        .collect()
}

async fn bridge() -> nlink::Result<()> {
    Connection::<Route>::new()?.add_link(BridgeLink::new("try0")).await
}

async fn veth() -> nlink::Result<()> {
    Connection::<Route>::new()?.add_link(VethLink::new("try1", "try2")).await
}

async fn vxlan() -> nlink::Result<()> {
    Connection::<Route>::new()?.add_link(VxlanLink::new("try3", VNI).local(Ipv4Addr::LOCALHOST)).await
}

async fn tables() -> nft::Result<()> {
    let conn = nft::connect()?;
    nft::fresh_table(conn.transaction(), "try", Family::V4).commit(&conn).await?;
    conn.transaction().del_table("try", nft::table_family(Family::V4)).commit(&conn).await
}
