//! `image`: the images of this machine's container runtime.
//!
//! The runtime belongs to the kubelet, which this module does not know: whoever builds the command line gives an [`Images`].

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use indicatif::{ProgressBar, ProgressStyle};

use super::cx::{Done, put, say};
use super::fail::{Failure, fail};
use super::print::tab;
use crate::util::order::Arrange;

/// An image of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// `sha256:…`.
    pub id: String,
    /// `registry/name:tag`; empty when it has none.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
}

/// User and password for a registry.
pub type Credentials = (String, String);

/// How to reach registries.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Who we are.
    pub credentials: Option<Credentials>,
    /// The registries file; none for the usual one.
    pub private_registry: Option<PathBuf>,
}

/// How far an import or a pull has come: bytes done and in all.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Which runtime of this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// Where orch keeps its state
    #[arg(short, long, default_value = "/var/lib/orch", global = true)]
    pub data_dir: PathBuf,
    /// Socket of another container runtime than orch's own containerd
    #[arg(long, global = true)]
    pub container_runtime_endpoint: Option<String>,
}

/// The images of the local container runtime.
#[async_trait]
pub trait Images: Send + Sync {
    /// Imports an archive (OCI or Docker, compressed or not) and gives the names of the images in it.
    async fn import(&self, place: &Place, archive: &Path, progress: Progress<'_>) -> anyhow::Result<Vec<String>>;
    /// Fetches an image from its registry and gives its whole name.
    async fn pull(&self, place: &Place, image: &str, from: &Origin, progress: Progress<'_>) -> anyhow::Result<String>;
    /// All images.
    async fn list(&self, place: &Place) -> anyhow::Result<Vec<ImageRow>>;
    /// Removes an image by name or id; an error when it is not there.
    async fn remove(&self, place: &Place, image: &str) -> anyhow::Result<()>;
}

/// The images of this machine
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum What {
    /// Import image archives
    Import {
        /// OCI or Docker archives
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Say nothing
        #[arg(short, long)]
        quiet: bool,
    },
    /// Fetch images from their registries
    Pull {
        /// Names
        #[arg(required = true)]
        images: Vec<String>,
        /// User and password for the registry
        #[arg(long, value_name = "USER:PASSWORD")]
        creds: Option<String>,
        /// Mirrors of registries; /etc/orch/registries.yaml when not given, if it is there
        #[arg(long, value_name = "FILE")]
        private_registry: Option<PathBuf>,
    },
    /// List images
    #[command(alias = "list")]
    Ls {
        /// Only the ids
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove images
    #[command(alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// Runs the verb.
pub async fn run(images: &dyn Images, args: Args) -> Done {
    match args.what {
        What::Import { files, quiet } => {
            for file in &files {
                import(images, &args.place, file, quiet).await?;
            }
            Ok(())
        }
        What::Pull { images: names, creds, private_registry } => {
            let from = Origin { credentials: creds.as_deref().map(parse_credentials).transpose()?, private_registry };
            for name in &names {
                pull(images, &args.place, name, &from).await?;
            }
            Ok(())
        }
        What::Ls { quiet } => {
            let mut all = images.list(&args.place).await?;
            all.arrange_by(|a, b| (&a.names, &a.id).cmp(&(&b.names, &b.id)));
            put(&table(&all, quiet))
        }
        What::Rm { images: names } => {
            for name in &names {
                images.remove(&args.place, name).await?;
                say(format!("Deleted: {name}"))?;
            }
            Ok(())
        }
    }
}

async fn import(images: &dyn Images, place: &Place, file: &Path, quiet: bool) -> Done {
    let size = match std::fs::metadata(file) {
        Ok(meta) if meta.is_file() => meta.len(),
        Ok(_) => fail!("cannot import {}: no file", file.display()),
        Err(e) => return Err(Failure::Plain(format!("cannot import {}: {e}", file.display()))),
    };
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let bar = if quiet { ProgressBar::hidden() } else { bar(size, name)? };
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let imported = images.import(place, file, &progress).await;
    bar.finish_and_clear();
    let names = imported.map_err(|e| Failure::Plain(format!("cannot import {}: {e:#}", file.display())))?;
    if names.is_empty() {
        fail!("{} holds no named image", file.display());
    }
    if quiet {
        return Ok(());
    }
    names.into_iter().try_for_each(|name| say(format!("Imported: {name}")))
}

fn bar(length: u64, message: String) -> Result<ProgressBar, Failure> {
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}")
        .map_err(|e| Failure::Plain(e.to_string()))?;
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(message);
    Ok(bar)
}

fn parse_credentials(text: &str) -> Result<Credentials, Failure> {
    match text.split_once(':') {
        Some((user, password)) if !user.is_empty() => Ok((user.to_owned(), password.to_owned())),
        _ => fail!("--creds has the form USER:PASSWORD"),
    }
}

async fn pull(images: &dyn Images, place: &Place, name: &str, from: &Origin) -> Done {
    let bar = bar(0, name.to_owned())?;
    let progress = |done: u64, all: u64| {
        // Layers that are there are no longer counted: what is left tells how far it is.
        let most = bar.length().unwrap_or(0).max(all);
        bar.set_length(most);
        bar.set_position(most - all.saturating_sub(done));
    };
    let pulled = images.pull(place, name, from, &progress).await;
    bar.finish_and_clear();
    let whole = pulled.map_err(|e| Failure::Plain(format!("cannot pull {name}: {e:#}")))?;
    say(format!("Pulled: {whole}"))
}

fn table(images: &[ImageRow], quiet: bool) -> String {
    if quiet {
        return images.iter().map(|i| format!("{}\n", i.id)).collect();
    }
    let mut out = "IMAGE\tTAG\tIMAGE ID\tSIZE\n".to_owned();
    for image in images {
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        let id = id.get(..13).unwrap_or(id);
        let names = if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names.clone() };
        for name in names {
            let (name, tag) = match name.rsplit_once(':') {
                Some((head, tag)) if !tag.contains('/') => (head.to_owned(), tag.to_owned()),
                _ => (name, "<none>".to_owned()),
            };
            out += &format!("{name}\t{tag}\t{id}\t{}\n", human(image.size));
        }
    }
    tab::align(&out, tab::GET)
}

/// Bytes with a decimal unit, three digits.
fn human(bytes: u64) -> String {
    let (mut amount, mut unit) = (bytes as f64, 0);
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    if unit == 0 || amount >= 100.0 {
        format!("{amount:.0}{}", UNITS[unit])
    } else {
        format!("{amount:.1}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_per_name() {
        let rows = [ImageRow {
            id: "sha256:0123456789abcdef".into(),
            names: vec!["reg:5000/a:v1".into(), "b".into()],
            size: 1_234_567,
        }];
        let want = "IMAGE        TAG      IMAGE ID        SIZE\nreg:5000/a   v1       0123456789abc   1.2MB\nb            <none>   0123456789abc   1.2MB\n";
        assert_eq!(table(&rows, false), want);
        assert_eq!(table(&rows, true), "sha256:0123456789abcdef\n");
    }

    #[test]
    fn credentials_are_a_pair() {
        let of = |text| parse_credentials(text).ok();
        assert_eq!(of("me:a:b"), Some(("me".into(), "a:b".into())));
        assert_eq!((of("me"), of(":x")), (None, None));
    }

    #[test]
    fn sizes() {
        assert_eq!((human(5), human(1500), human(250_000_000)), ("5B".into(), "1.5kB".into(), "250MB".into()));
    }
}
