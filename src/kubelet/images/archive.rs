//! Makes an OCI archive (a tar of an image layout) of files: for images built on the spot, without a registry.
//!
//! **Invariant:** the same files give the same bytes, and so the same digests: no times, no owners, sorted entries.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::image as oci;
use serde_json::json;

use super::digest;
use crate::util::order::Arrange;

/// Largest layer that is built in memory, bytes before compression.
const LAYER_LIMIT_BYTES: u64 = 512 << 20;

/// A file of the image's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: PathBuf,
    mode: u32,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Directory,
    File(Vec<u8>),
    Link(PathBuf),
    OnDisk(PathBuf, u64),
}

impl Entry {
    /// A regular file.
    pub fn file(path: impl Into<PathBuf>, mode: u32, bytes: Vec<u8>) -> Self {
        Self { path: path.into(), mode, content: Content::File(bytes) }
    }

    /// A directory.
    pub fn directory(path: impl Into<PathBuf>, mode: u32) -> Self {
        Self { path: path.into(), mode, content: Content::Directory }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o777, content: Content::Link(target.into()) }
    }

    /// Everything below a directory: directories, regular files and symbolic links; anything else is an error.
    pub fn tree(root: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(root.join(&dir))? {
                let entry = entry?;
                let (path, meta) = (dir.join(entry.file_name()), entry.metadata()?);
                let mode = meta.permissions().mode() & 0o7777;
                let kind = meta.file_type();
                let content = if kind.is_dir() {
                    pending.push(path.clone());
                    Content::Directory
                } else if kind.is_symlink() {
                    Content::Link(std::fs::read_link(entry.path())?)
                } else if kind.is_file() {
                    Content::OnDisk(entry.path(), meta.len())
                } else {
                    let text = format!("{} is neither a file, a directory nor a link", entry.path().display());
                    return Err(io::Error::other(text));
                };
                found.push(Self { path, mode, content });
            }
        }
        Ok(found)
    }

    fn size(&self) -> u64 {
        match &self.content {
            Content::File(bytes) => bytes.len() as u64,
            Content::OnDisk(_, size) => *size,
            Content::Directory | Content::Link(_) => 0,
        }
    }
}

/// What an image says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    /// Name and tag; short names are expanded at import.
    pub name: String,
    /// Program and fixed arguments.
    pub entrypoint: Vec<String>,
    /// Default arguments.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// User, by number or name, with an optional group; empty for root.
    pub user: String,
    /// Working directory; empty for `/`.
    pub working_dir: String,
}

impl Archive {
    /// The archive with one layer of `entries`, for this machine's architecture.
    pub fn build(&self, entries: &[Entry]) -> io::Result<Vec<u8>> {
        let (layer, diff_id) = layer(entries)?;
        let mut config = oci::ConfigBuilder::default()
            .entrypoint(self.entrypoint.clone())
            .cmd(self.command.clone())
            .env(self.env.clone());
        if !self.user.is_empty() {
            config = config.user(self.user.clone());
        }
        if !self.working_dir.is_empty() {
            config = config.working_dir(self.working_dir.clone());
        }
        let rootfs = oci::RootFsBuilder::default().typ("layers").diff_ids(vec![diff_id]).build();
        let image = oci::ImageConfigurationBuilder::default()
            .architecture(super::architecture())
            .os(oci::Os::Linux)
            .config(config.build().map_err(io::Error::other)?)
            .rootfs(rootfs.map_err(io::Error::other)?)
            .build()
            .map_err(io::Error::other)?;
        let image = serde_json::to_vec(&image)?;
        let descriptor = |kind: oci::MediaType, bytes: &[u8]| json!({ "mediaType": kind.to_string(), "digest": digest(bytes), "size": bytes.len() });
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": oci::MediaType::ImageManifest.to_string(),
            "config": descriptor(oci::MediaType::ImageConfig, &image),
            "layers": [descriptor(oci::MediaType::ImageLayerGzip, &layer)],
        }))?;
        let mut target = descriptor(oci::MediaType::ImageManifest, &manifest);
        target["annotations"] = json!({ "io.containerd.image.name": self.name });
        let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [target] }))?;

        let mut tar = tar::Builder::new(Vec::new());
        let mut append = |path: &str, bytes: &[u8]| {
            let mut header = header(0o644, bytes.len() as u64, tar::EntryType::Regular);
            tar.append_data(&mut header, path, bytes)
        };
        append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append("index.json", &index)?;
        for blob in [&manifest, &image, &layer] {
            append(&format!("blobs/sha256/{}", digest(blob).trim_start_matches("sha256:")), blob)?;
        }
        tar.into_inner()
    }
}

fn header(mode: u32, size: u64, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A compressed layer, and the digest of what is in it uncompressed.
fn layer(entries: &[Entry]) -> io::Result<(Vec<u8>, String)> {
    let size: u64 = entries.iter().map(Entry::size).sum();
    if size > LAYER_LIMIT_BYTES {
        let text = format!("the files are {size} bytes, more than the {LAYER_LIMIT_BYTES} a built layer may have");
        return Err(io::Error::other(text));
    }
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.arrange_by(|a, b| a.path.cmp(&b.path));
    let mut tar = tar::Builder::new(Hashing::new(GzEncoder::new(Vec::new(), Compression::default())));
    for entry in sorted {
        match &entry.content {
            Content::Directory => {
                let mut header = header(entry.mode, 0, tar::EntryType::Directory);
                tar.append_data(&mut header, entry.path.join(""), io::empty())?;
            }
            Content::File(bytes) => {
                let mut header = header(entry.mode, bytes.len() as u64, tar::EntryType::Regular);
                tar.append_data(&mut header, &entry.path, bytes.as_slice())?;
            }
            Content::OnDisk(path, size) => {
                let mut header = header(entry.mode, *size, tar::EntryType::Regular);
                tar.append_data(&mut header, &entry.path, io::Read::take(std::fs::File::open(path)?, *size))?;
            }
            Content::Link(target) => {
                let mut header = header(entry.mode, 0, tar::EntryType::Symlink);
                tar.append_link(&mut header, &entry.path, target)?;
            }
        }
    }
    let (gzip, diff_id) = tar.into_inner()?.finish();
    Ok((gzip.finish()?, diff_id))
}

/// Hashes what passes through.
pub(super) struct Hashing<W> {
    inner: W,
    context: aws_lc_rs::digest::Context,
}

impl<W> Hashing<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, context: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256) }
    }

    pub(super) fn finish(self) -> (W, String) {
        (self.inner, super::named_digest(self.context.finish().as_ref()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.context.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn the_same_files_give_the_same_bytes_in_any_order() {
        let archive = Archive { name: "a:1".into(), ..Archive::default() };
        let (a, b) = (Entry::file("b", 0o644, b"x".to_vec()), Entry::directory("a", 0o755));
        let one = archive.build(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(one, archive.build(&[b, a]).unwrap());
        assert_eq!(names(&one)[..2], ["oci-layout", "index.json"]);
        assert_eq!(names(&one).len(), 5);
    }

    #[test]
    fn a_tree_keeps_modes_and_links_and_the_diff_id_is_of_the_uncompressed_tar() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::write(dir.path().join("bin/sh"), "#!").unwrap();
        std::fs::set_permissions(dir.path().join("bin/sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("sh", dir.path().join("bin/ash")).unwrap();
        let (gzip, diff_id) = layer(&Entry::tree(dir.path()).unwrap()).unwrap();
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(gzip.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(digest(&tar), diff_id);
        assert_eq!(names(&tar), ["bin/", "bin/ash", "bin/sh"]);
        let mut archive = tar::Archive::new(tar.as_slice());
        let modes: Vec<u32> = archive.entries().unwrap().map(|e| e.unwrap().header().mode().unwrap()).collect();
        assert_eq!(modes[2], 0o755);
    }
}
