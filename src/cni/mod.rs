//! orch as a CNI plugin: what connects pods to the node.
//!
//! The container runtime starts the binary as `orch-cni` with a command in its environment and a configuration on its
//! input ([`main`]); the agent writes that configuration ([`write_conf`]), makes the bridge before the first pod
//! ([`setup`]), restores what of table and bridge somebody removed ([`run`]) and gives back what leaked ([`collect_garbage`]).
//!
//! **Invariant:** ADD may be repeated after a crash at any point; DEL of what is gone succeeds.
//! **Invariant:** every name (bridge, table, directory) is the configuration's: nodes of one machine do not meet.

pub mod ipam;
pub mod link;
pub mod nat;
pub mod overlay;
pub mod spec;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use self::ipam::{Pool, Reservation};
use self::spec::{Attached, Code, Error, NetConfig, Request, Result, VERSIONS};
use crate::util::families::Networks;
use crate::util::files;
use crate::util::nft::{Disturbance, Watch};
use crate::util::tasks::Shutdown;

/// File name of the plugin.
pub const PLUGIN: &str = "orch-cni";
/// File name of the second plugin that containerd asks for: it brings up the loopback interface.
pub const LOOPBACK: &str = "loopback";
/// Name of the configuration file; it sorts late, so that one of the user's comes first.
pub const CONF_FILE: &str = "99-orch.conflist";
/// Bytes of a configuration at most.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What the agent decides of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniConfig {
    /// Name of the bridge, as `orch0`.
    pub bridge: String,
    /// Addresses of this node's pods.
    pub subnet: Networks,
    /// Addresses of all pods, of the same families.
    pub cluster_cidr: Networks,
    /// Addresses of Services: the node itself reaches them without a default route, too.
    pub service_cidr: Option<Networks>,
    /// MTU of pods; 0 for the kernel's default.
    pub mtu: u32,
    /// Name of the nftables table, as `orch-cni`.
    pub table: String,
    /// Directory for reservations.
    pub data_dir: PathBuf,
    /// Directory the runtime looks for plugins in.
    pub bin_dir: PathBuf,
}

impl CniConfig {
    /// The plugin's configuration.
    pub fn net(&self) -> NetConfig {
        NetConfig {
            cni_version: "1.0.0".into(),
            name: "orch".into(),
            plugin: PLUGIN.into(),
            bridge: self.bridge.clone(),
            subnet: self.subnet,
            cluster_cidr: self.cluster_cidr,
            mtu: self.mtu,
            table: self.table.clone(),
            data_dir: self.data_dir.clone(),
            capabilities: [("portMappings".to_owned(), true)].into(),
            runtime_config: None,
        }
    }
}

/// Writes the runtime's configuration into `dir` and puts the plugin into the bin directory. Gives the user's own
/// configuration that the runtime takes instead, if there is one.
pub fn write_conf(dir: &Path, config: &CniConfig) -> std::io::Result<Option<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    std::fs::create_dir_all(&config.bin_dir)?;
    install_plugin(&config.bin_dir, PLUGIN)?;
    install_plugin(&config.bin_dir, LOOPBACK)?;
    let mut plugin = serde_json::to_value(config.net()).expect("a configuration serializes");
    let fields = plugin.as_object_mut().expect("it is a struct");
    // Name and version stand once, above the list of plugins.
    let (name, version) = (fields.shift_remove("name"), fields.shift_remove("cniVersion"));
    let list = json!({"cniVersion": version, "name": name, "plugins": [plugin]});
    files::write_atomic(&dir.join(CONF_FILE), format!("{list:#}\n").as_bytes(), 0o644)?;
    first_other(dir)
}

/// The configuration that sorts before ours.
fn first_other(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_conf = path.extension().is_some_and(|e| e == "conf" || e == "conflist" || e == "json");
        if is_conf && path.file_name().is_some_and(|n| n < std::ffi::OsStr::new(CONF_FILE)) {
            names.push(path);
        }
    }
    names.retain(|p| !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')));
    Ok(names.into_iter().min())
}

/// The plugin is this binary under another name.
fn install_plugin(bin_dir: &Path, name: &str) -> std::io::Result<()> {
    let own = std::env::current_exe()?;
    let link = bin_dir.join(name);
    if std::fs::read_link(&link).is_ok_and(|to| to == own) {
        return Ok(());
    }
    let temp = bin_dir.join(format!(".{name}.{}", std::process::id()));
    let _ = std::fs::remove_file(&temp);
    std::os::unix::fs::symlink(&own, &temp)?;
    std::fs::rename(&temp, &link)
}

/// Makes bridge and table, so that the bridge's address can be bound before the first pod comes.
pub async fn setup(config: &CniConfig) -> Result<()> {
    let net = config.net();
    link::ensure_bridge(&net).await?;
    if let Some(services) = config.service_cidr {
        link::ensure_service_routes(&net, services).await?;
    }
    let pool = Pool::lock(&net).await?;
    let strays = link::remove_strays(&net, &host_names(&pool).collect()).await?;
    if !strays.is_empty() {
        tracing::warn!(ports = ?strays, "removed ports of bridge {} that belong to no pod of this node", net.bridge);
    }
    nat::install(&net, pool.reserved()).await
}

/// The host ends of all reservations.
fn host_names(pool: &Pool) -> impl Iterator<Item = String> {
    pool.reserved().values().map(|r| link::host_name(&r.container, &r.interface))
}

/// Restores table and bridge when somebody removes them, until told to stop. An error, of something that went in its hands
/// for one, is for who began it: from [`setup`] on it is done again.
pub async fn run(config: CniConfig, shutdown: Shutdown) -> Result<()> {
    tokio::try_join!(keep_table(&config, &shutdown), keep_bridge(&config, &shutdown)).map(drop)
}

/// Makes the bridge again when it is gone, with its address and routes, and plugs the pods in that were.
async fn keep_bridge(config: &CniConfig, shutdown: &Shutdown) -> Result<()> {
    let net = config.net();
    let mut watch = link::BridgeWatch::new(&net).await?;
    loop {
        // Also at first: it may have gone since it was made, before anybody watched.
        let pool = Pool::lock(&net).await?;
        link::ensure_bridge(&net).await?;
        if let Some(services) = config.service_cidr {
            link::ensure_service_routes(&net, services).await?;
        }
        link::plug_in_again(&net, &host_names(&pool).collect::<Vec<_>>()).await?;
        drop(pool);
        let Some(lost) = shutdown.or(watch.lost()).await else { return Ok(()) };
        tracing::warn!("somebody removed bridge {} or its address; making it again", net.bridge);
        if lost.is_err() {
            watch = link::BridgeWatch::new(&net).await?;
        }
    }
}

async fn keep_table(config: &CniConfig, shutdown: &Shutdown) -> Result<()> {
    let net = config.net();
    let watch = async || Watch::new(&net.table).await.map_err(|e| Error::network("watch nftables", e));
    let mut events = watch().await?;
    // It may have gone before anybody watched.
    nat::ensure(&net, Pool::lock(&net).await?.reserved()).await?;
    while let Some(event) = shutdown.or(events.next()).await {
        if event.is_err() {
            events = watch().await?;
        }
        let pool = Pool::lock(&net).await?;
        match event {
            Ok(Disturbance::Changed) => nat::install(&net, pool.reserved()).await?,
            Ok(Disturbance::Unknown) | Err(_) => nat::ensure(&net, pool.reserved()).await?,
        }
    }
    Ok(())
}

/// Gives back what sandboxes have left that are not `live` and older than `age`; how many addresses that were.
pub async fn collect_garbage(config: &CniConfig, age: Duration, live: impl Fn(&str) -> bool) -> Result<usize> {
    give_back(&config.net(), age, live).await
}

async fn give_back(config: &NetConfig, age: Duration, live: impl Fn(&str) -> bool) -> Result<usize> {
    let mut pool = Pool::lock(config).await?;
    let leaked = pool.retain(age, live)?;
    for (_, reservation) in &leaked {
        link::detach(&link::host_name(&reservation.container, &reservation.interface)).await?;
        remove_namespace(&reservation.netns);
    }
    if leaked.iter().any(|(_, reservation)| !reservation.port_mappings.is_empty()) {
        nat::install(config, pool.reserved()).await?;
    }
    Ok(leaked.len())
}

/// Removes the network namespace that a runtime made for a sandbox and then forgot: it was killed in between. Only names
/// that runtimes give (`cni-…`) are touched.
fn remove_namespace(path: &Path) {
    if !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("cni-")) || !path.exists() {
        return;
    }
    let unmounted = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH).map_err(std::io::Error::from);
    match unmounted.and_then(|()| std::fs::remove_file(path)) {
        Ok(()) => tracing::info!("removed {}, which no sandbox uses", path.display()),
        Err(e) => tracing::warn!("cannot remove {}, which no sandbox uses: {e}", path.display()),
    }
}

fn called_as() -> Option<std::ffi::OsString> {
    std::env::args_os().next().and_then(|a| Path::new(&a).file_name().map(ToOwned::to_owned))
}

/// True when this process was started under a plugin's name.
pub fn is_plugin_call() -> bool {
    called_as().is_some_and(|name| name == PLUGIN || name == LOOPBACK)
}

/// Runs as a plugin: command from the environment, configuration from standard input, result to standard output.
pub fn main() -> ExitCode {
    let is_loopback = called_as().is_some_and(|name| name == LOOPBACK);
    let mut input = Vec::new();
    let read = std::io::stdin().take(MAX_CONFIG_BYTES).read_to_end(&mut input);
    let outcome = read
        .map_err(|e| Error::io("read the configuration", &e))
        .and_then(|_| Request::from_env(|name| std::env::var(name).ok()))
        .and_then(|request| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| Error::io("start", &e))?;
            match is_loopback {
                true => runtime.block_on(execute_loopback(&request, &input)),
                false => runtime.block_on(execute(&request, &input)),
            }
        });
    match outcome {
        Ok(Value::Null) => ExitCode::SUCCESS,
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", error.to_json());
            ExitCode::FAILURE
        }
    }
}

/// One command; null where it prints nothing.
pub async fn execute(request: &Request, input: &[u8]) -> Result<Value> {
    match request.command.as_str() {
        "VERSION" => Ok(json!({"cniVersion": "1.0.0", "supportedVersions": VERSIONS})),
        "ADD" => add(request, &NetConfig::parse(input)?).await,
        "DEL" => delete(request, &NetConfig::parse_for_removal(input)?).await,
        "CHECK" => check(request, &NetConfig::parse(input)?).await,
        "STATUS" => Pool::lock(&NetConfig::parse(input)?).await.map(|_| Value::Null),
        "GC" => garbage(input).await,
        other => Err(Error::new(Code::Environment, format!("CNI_COMMAND {other:?} is unknown"))),
    }
}

/// Runs a command of the loopback plugin.
pub async fn execute_loopback(request: &Request, input: &[u8]) -> Result<Value> {
    match request.command.as_str() {
        "VERSION" => Ok(json!({"cniVersion": "1.0.0", "supportedVersions": VERSIONS})),
        "ADD" => {
            let config: Value = serde_json::from_slice(input)
                .map_err(|e| Error::new(Code::Decode, format!("the configuration is no JSON: {e}")))?;
            link::loopback_up(&request.netns).await?;
            Ok(json!({
                "cniVersion": config["cniVersion"],
                "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": request.netns}],
                "ips": [{"address": "127.0.0.1/8", "interface": 0}],
                "dns": {},
            }))
        }
        // The interface goes with its namespace.
        _ => Ok(Value::Null),
    }
}

async fn add(request: &Request, config: &NetConfig) -> Result<Value> {
    let mut pool = Pool::lock(config).await?;
    let reservation = Reservation {
        container: request.container.clone(),
        interface: request.interface.clone(),
        port_mappings: config.port_mappings().to_vec(),
        netns: (&request.netns).into(),
    };
    let has_ports = !reservation.port_mappings.is_empty();
    let address = pool.reserve(reservation)?;
    let host = link::host_name(&request.container, &request.interface);
    let attached = async {
        link::ensure_bridge(config).await?;
        link::attach(config, &request.netns, &request.interface, &host, address).await?;
        if has_ports { nat::install(config, pool.reserved()).await } else { nat::ensure(config, pool.reserved()).await }
    }
    .await;
    if let Err(error) = attached {
        let _ = link::detach(&host).await;
        pool.release(&request.container, &request.interface)?;
        return Err(error);
    }
    let mac = link::mac(address).map(|b| format!("{b:02x}")).join(":");
    Ok(Attached { host_interface: host, mac, address }.to_json(config, request))
}

async fn delete(request: &Request, config: &NetConfig) -> Result<Value> {
    let mut pool = Pool::lock(config).await?;
    link::detach(&link::host_name(&request.container, &request.interface)).await?;
    if let Some((address, reservation)) = pool.release(&request.container, &request.interface)?
        && !reservation.port_mappings.is_empty()
    {
        nat::install(config, pool.reserved()).await?;
        nat::forget(config, address).await;
    }
    Ok(Value::Null)
}

async fn check(request: &Request, config: &NetConfig) -> Result<Value> {
    let address = Pool::lock(config)
        .await?
        .find(&request.container, &request.interface)
        .ok_or_else(|| Error::new(Code::UnknownContainer, format!("container {} has no address", request.container)))?;
    if link::is_attached(config, &request.netns, &request.interface, address).await? {
        return Ok(Value::Null);
    }
    let message = format!("{} of container {} does not have address {address}", request.interface, request.container);
    Err(Error::new(Code::Network, message))
}

/// GC of the specification 1.1.0: the runtime lists what is alive.
async fn garbage(input: &[u8]) -> Result<Value> {
    let config = NetConfig::parse(input)?;
    let value: Value = serde_json::from_slice(input)
        .map_err(|e| Error::new(Code::Decode, format!("cannot read the network configuration: {e}")))?;
    let Some(alive) = value.get("cni.dev/valid-attachments").and_then(Value::as_array) else {
        return Err(Error::new(Code::Config, "cni.dev/valid-attachments is missing"));
    };
    give_back(&config, Duration::ZERO, |id| alive.iter().any(|a| a["containerID"] == id)).await?;
    Ok(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keeper_can_be_a_task() {
        fn is_send<T: Send>(_: impl FnOnce(CniConfig) -> T) {}
        is_send(|config| run(config, Shutdown::new()));
        is_send(|config| async move { setup(&config).await });
    }

    #[test]
    fn the_users_own_configuration_wins() {
        let dir = tempfile::tempdir().unwrap();
        let config = CniConfig {
            bridge: "orch0".into(),
            subnet: "10.42.0.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            service_cidr: None,
            mtu: 0,
            table: "orch-cni".into(),
            data_dir: dir.path().join("data"),
            bin_dir: dir.path().join("bin"),
        };
        let conf = dir.path().join("net.d");
        assert_eq!(write_conf(&conf, &config).unwrap(), None);
        let list: Value = serde_json::from_slice(&std::fs::read(conf.join(CONF_FILE)).unwrap()).unwrap();
        assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&json!("orch"), &json!(PLUGIN)));
        assert_eq!(std::fs::read_link(dir.path().join("bin").join(PLUGIN)).unwrap(), std::env::current_exe().unwrap());

        // What the runtime hands to the plugin: the entry of the list with name and version put in.
        let mut handed = list["plugins"][0].clone();
        handed["name"] = list["name"].clone();
        handed["cniVersion"] = list["cniVersion"].clone();
        assert_eq!(NetConfig::parse(handed.to_string().as_bytes()).unwrap(), config.net());

        std::fs::write(conf.join("10-own.conf"), "{}").unwrap();
        assert_eq!(write_conf(&conf, &config).unwrap(), Some(conf.join("10-own.conf")));
    }
}
