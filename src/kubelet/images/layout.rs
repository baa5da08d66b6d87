//! Reads image archives: OCI layouts and `docker save`, plain, gzipped or with zstd. No network, no runtime.
//!
//! **Invariant:** blobs stay in the file; only documents (indexes, manifests, configurations) are read into memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use oci_spec::image as oci;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::archive::Hashing;
use super::{architecture, digest, import::ImportError, normalize};

/// Largest JSON document of an image, bytes; registries refuse larger manifests.
const DOCUMENT_LIMIT_BYTES: u64 = 4 << 20;
/// Largest archive after decompression, bytes.
const ARCHIVE_LIMIT_BYTES: u64 = 32 << 30;
/// Most files in an archive; an image has a few per layer.
const FILES_LIMIT: usize = 10_000;
/// How many symbolic links in a row are followed inside an archive.
const LINK_LIMIT: usize = 8;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

type Result<T> = std::result::Result<T, ImportError>;

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// In the archive, from this offset.
    Archive(u64),
    /// Made here.
    Memory(Vec<u8>),
}

/// A blob to store.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) source: Source,
}

/// An image in the archive: its manifest, and what the manifest names.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Full names.
    pub(super) names: Vec<String>,
    pub(super) config: Blob,
    pub(super) layers: Vec<Blob>,
    pub(super) manifest: Blob,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An opened archive.
pub(super) struct Layout {
    file: Arc<File>,
    files: HashMap<PathBuf, Place>,
}

enum Place {
    Bytes { offset: u64, size: u64 },
    Link(PathBuf),
}

fn format(text: impl Into<String>) -> ImportError {
    ImportError::Format(text.into())
}

impl Layout {
    /// Opens an archive and notes where its files are.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        if starts_with(&file, 0, &GZIP)? {
            file = unpack(flate2::read::MultiGzDecoder::new(file))?;
        } else if starts_with(&file, 0, &ZSTD)? {
            let decoder = ruzstd::decoding::StreamingDecoder::new(file).map_err(|e| format(e.to_string()))?;
            file = unpack(decoder)?;
        }
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek()? {
            let entry = entry.map_err(|e| format(format!("not a tar archive, or cut short: {e}")))?;
            let path = plain(&entry.path()?);
            match entry.header().entry_type() {
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry.link_name()?.unwrap_or_default().into_owned();
                    let is_symlink = entry.header().entry_type() == tar::EntryType::Symlink;
                    let base =
                        if is_symlink { path.parent().unwrap_or(Path::new("")).to_owned() } else { PathBuf::new() };
                    files.insert(path, Place::Link(plain(&base.join(target))));
                }
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    files.insert(path, Place::Bytes { offset: entry.raw_file_position(), size: entry.size() });
                }
                _ => {}
            }
            if files.len() > FILES_LIMIT {
                return Err(format(format!("more than {FILES_LIMIT} files: this is no image archive")));
            }
        }
        Ok(Self { file: Arc::new(file), files })
    }

    pub(super) fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// The images for this machine. `name` names the only image of an archive that names none.
    pub(super) fn images(&self, name: Option<&str>) -> Result<Vec<Found>> {
        let mut found = if self.place("index.json").is_ok() {
            self.oci_images()?
        } else if self.place("manifest.json").is_ok() {
            self.docker_images()?
        } else {
            return Err(format("neither index.json nor manifest.json in it: this is no image archive"));
        };
        match (name, found.as_mut_slice()) {
            (Some(name), [only]) => only.names = vec![full_name(name)?],
            (Some(_), many) => return Err(format(format!("{} images in it, but one name given", many.len()))),
            (None, many) => {
                if let Some(nameless) = many.iter().find(|f| f.names.is_empty()) {
                    return Err(format(format!("image {} in it has no name; give one", nameless.manifest.digest)));
                }
            }
        }
        Ok(found)
    }

    fn oci_images(&self) -> Result<Vec<Found>> {
        let index: oci::ImageIndex = self.document("index.json")?;
        index.manifests().iter().map(|target| self.oci_image(target)).collect()
    }

    fn oci_image(&self, target: &oci::Descriptor) -> Result<Found> {
        let annotation = |key: &str| target.annotations().as_ref().and_then(|a| a.get(key)).map(String::as_str);
        // containerd's annotation is the whole name; the standard one often is the tag alone and names nothing then.
        let named = annotation("io.containerd.image.name")
            .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|n| n.contains(['/', ':'])));
        let names = named.map(full_name).transpose()?.into_iter().collect();
        let manifest = self.select(target)?;
        let manifest_blob = self.blob(&manifest)?;
        let parsed: oci::ImageManifest = self.document(&blob_path(&manifest))?;
        let config = self.blob(parsed.config())?;
        check_platform(&self.document(&blob_path(parsed.config()))?)?;
        let layers = parsed.layers().iter().map(|l| self.blob(l)).collect::<Result<_>>()?;
        Ok(Found { names, config, layers, manifest: manifest_blob })
    }

    /// Follows an index to the manifest for this machine that the archive holds.
    fn select(&self, target: &oci::Descriptor) -> Result<oci::Descriptor> {
        let media_type = target.media_type().to_string();
        if media_type != oci::MediaType::ImageIndex.to_string() && media_type != DOCKER_LIST {
            return Ok(target.clone());
        }
        let index: oci::ImageIndex = self.document(&blob_path(target))?;
        let ours = |d: &&oci::Descriptor| {
            let matches =
                |p: &oci::Platform| p.os().to_string() == "linux" && p.architecture().to_string() == architecture();
            d.platform().as_ref().is_none_or(matches) && self.place(&blob_path(d)).is_ok()
        };
        index.manifests().iter().find(ours).cloned().ok_or_else(|| {
            let has =
                index.manifests().iter().filter_map(|d| d.platform().as_ref()).map(|p| p.architecture().to_string());
            ImportError::Platform(has.collect::<Vec<_>>().join(", "))
        })
    }

    fn docker_images(&self) -> Result<Vec<Found>> {
        let images: Vec<DockerImage> = self.document("manifest.json")?;
        images.iter().map(|image| self.docker_image(image)).collect()
    }

    fn docker_image(&self, image: &DockerImage) -> Result<Found> {
        let names = image.repo_tags.iter().flatten().map(|n| full_name(n)).collect::<Result<_>>()?;
        check_platform(&self.document(&image.config)?)?;
        let config = self.hashed(&image.config, DOCKER_CONFIG.to_owned())?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let (offset, _) = self.place(layer)?;
            let suffix = if starts_with(&self.file, offset, &GZIP)? { ".gzip" } else { "" };
            layers.push(self.hashed(layer, format!("{DOCKER_LAYER}{suffix}"))?);
        }
        let descriptor =
            |b: &Blob| serde_json::json!({ "mediaType": b.media_type, "digest": b.digest, "size": b.size });
        let bytes = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": descriptor(&config),
            "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        }))
        .map_err(|e| format(e.to_string()))?;
        let manifest = Blob {
            media_type: DOCKER_MANIFEST.to_owned(),
            digest: digest(&bytes),
            size: bytes.len() as u64,
            source: Source::Memory(bytes),
        };
        Ok(Found { names, config, layers, manifest })
    }

    fn place(&self, path: &str) -> Result<(u64, u64)> {
        let mut at = plain(Path::new(path));
        for _ in 0..LINK_LIMIT {
            match self.files.get(&at) {
                Some(Place::Bytes { offset, size }) => return Ok((*offset, *size)),
                Some(Place::Link(target)) => at.clone_from(target),
                None => break,
            }
        }
        Err(format(format!("{path} is missing in the archive")))
    }

    fn document<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (offset, size) = self.place(path)?;
        if size > DOCUMENT_LIMIT_BYTES {
            return Err(format(format!("{path} has {size} bytes, more than the {DOCUMENT_LIMIT_BYTES} allowed")));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, offset)?;
        serde_json::from_slice(&bytes).map_err(|e| format(format!("{path} is not what it should be: {e}")))
    }

    /// A blob by its descriptor; its digest is checked by whoever stores it.
    fn blob(&self, descriptor: &oci::Descriptor) -> Result<Blob> {
        let path = blob_path(descriptor);
        let (offset, size) = self.place(&path)?;
        if size != descriptor.size() {
            return Err(format(format!("{path} has {size} bytes instead of {}", descriptor.size())));
        }
        let media_type = descriptor.media_type().to_string();
        Ok(Blob { media_type, digest: descriptor.digest().to_string(), size, source: Source::Archive(offset) })
    }

    /// A blob by its path, for archives that do not tell digests.
    fn hashed(&self, path: &str, media_type: String) -> Result<Blob> {
        let (offset, size) = self.place(path)?;
        let mut reader = self.file.try_clone()?;
        reader.seek(SeekFrom::Start(offset))?;
        let mut hashing = Hashing::new(io::sink());
        io::copy(&mut reader.take(size), &mut hashing)?;
        Ok(Blob { media_type, digest: hashing.finish().1, size, source: Source::Archive(offset) })
    }
}

fn full_name(name: &str) -> Result<String> {
    normalize(name).map_err(ImportError::Format)
}

fn blob_path(descriptor: &oci::Descriptor) -> String {
    format!("blobs/{}", descriptor.digest().to_string().replacen(':', "/", 1))
}

/// A path without `.`, `..` and a leading `/`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

fn check_platform(config: &serde_json::Value) -> Result<()> {
    match config.get("architecture").and_then(|a| a.as_str()) {
        Some(other) if other != architecture() => Err(ImportError::Platform(other.to_owned())),
        _ => Ok(()),
    }
}

/// The first bytes of what is compressed with gzip, and with zstd.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn starts_with<const N: usize>(file: &File, offset: u64, wanted: &[u8; N]) -> io::Result<bool> {
    let mut magic = [0; N];
    Ok(file.read_at(&mut magic, offset)? == N && magic == *wanted)
}

/// The content of a compressed file, in a file without a name that goes away by itself.
fn unpack(packed: impl Read) -> io::Result<File> {
    let mut plain = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(std::env::temp_dir())?;
    let n = io::copy(&mut packed.take(ARCHIVE_LIMIT_BYTES), &mut plain)?;
    if n == ARCHIVE_LIMIT_BYTES {
        return Err(io::Error::other(format!("the archive is larger than {ARCHIVE_LIMIT_BYTES} bytes")));
    }
    plain.flush()?;
    plain.rewind()?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::super::{Archive, Entry};
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    fn open(bytes: &[u8]) -> Result<Layout> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        std::fs::write(&path, bytes).unwrap();
        Layout::open(&path)
    }

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn ours(name: &str) -> Vec<u8> {
        Archive { name: name.into(), ..Archive::default() }.build(&[Entry::file("f", 0o644, b"x".to_vec())]).unwrap()
    }

    #[test]
    fn what_we_write_we_read_plain_and_compressed() {
        let plain = ours("web:v1");
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = ruzstd::encoding::compress_to_vec(plain.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
        for bytes in [plain, gzip.finish().unwrap(), zstd] {
            let images = open(&bytes).unwrap().images(None).unwrap();
            assert_eq!(images[0].names, ["docker.io/library/web:v1"]);
            assert_eq!(images[0].layers.len(), 1);
            let renamed = open(&bytes).unwrap().images(Some("other:v2")).unwrap();
            assert_eq!(renamed[0].names, ["docker.io/library/other:v2"]);
        }
    }

    #[test]
    fn docker_archives_get_a_manifest() {
        let config = format!(r#"{{"architecture":"{}"}}"#, architecture());
        let manifest = br#"[{"Config":"c.json","RepoTags":["web:v1","web:v2"],"Layers":["l/layer.tar"]}]"#;
        let files: &[(&str, &[u8])] =
            &[("c.json", config.as_bytes()), ("l/layer.tar", b"abc"), ("manifest.json", manifest)];
        let image = open(&tar(files)).unwrap().images(None).unwrap().remove(0);
        assert_eq!(image.names.len(), 2);
        assert_eq!(image.layers[0].digest, digest(b"abc"));
        let Source::Memory(bytes) = &image.manifest.source else { panic!("it is made here") };
        assert_eq!(digest(bytes), image.manifest.digest);
    }

    #[test]
    fn an_index_leads_to_the_manifest_of_this_machine() {
        let layout = |architectures: &[&str]| {
            let config = format!(
                r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}}}}"#,
                architecture()
            );
            let descriptor = |kind: oci::MediaType, bytes: &[u8]| serde_json::json!({ "mediaType": kind.to_string(), "digest": digest(bytes), "size": bytes.len() });
            let manifest = serde_json::json!({
                "schemaVersion": 2, "layers": [], "config": descriptor(oci::MediaType::ImageConfig, config.as_bytes()),
            });
            let manifest = manifest.to_string();
            let manifests: Vec<_> = architectures
                .iter()
                .map(|a| {
                    let mut d = descriptor(oci::MediaType::ImageManifest, manifest.as_bytes());
                    d["platform"] = serde_json::json!({ "os": "linux", "architecture": a });
                    d
                })
                .collect();
            let nested = serde_json::json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
            let mut target = descriptor(oci::MediaType::ImageIndex, nested.as_bytes());
            target["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "web:v1" });
            let index = serde_json::json!({ "schemaVersion": 2, "manifests": [target] }).to_string();
            let path = |bytes: &str| format!("./blobs/{}", digest(bytes.as_bytes()).replace(':', "/"));
            let blobs = [&nested, &manifest, &config].map(|b| (path(b), b.clone()));
            let mut files: Vec<(&str, &[u8])> = blobs.iter().map(|(p, b)| (p.as_str(), b.as_bytes())).collect();
            files.push(("./index.json", index.as_bytes()));
            open(&tar(&files)).unwrap().images(None)
        };
        assert!(layout(&["s390x", architecture()]).is_ok());
        let error = layout(&["s390x"]).unwrap_err().to_string();
        assert!(error.contains("s390x") && error.contains(architecture()), "{error}");
    }

    #[test]
    fn bad_archives_say_what_is_wrong() {
        let error = |bytes: &[u8]| open(bytes).and_then(|l| l.images(None)).unwrap_err().to_string();
        assert!(error(&tar(&[("x", b"")])).contains("neither index.json nor manifest.json"));
        assert!(error(b"garbage that is no tar archive at all").contains("not a tar archive"));
        assert!(error(&tar(&[("index.json", b"[]")])).contains("index.json is not what it should be"));
        let manifest: &[u8] = br#"[{"Config":"c.json","RepoTags":null,"Layers":[]}]"#;
        assert!(error(&tar(&[("manifest.json", manifest)])).contains("c.json is missing"));
        assert!(error(&tar(&[("manifest.json", manifest), ("c.json", b"{}")])).contains("has no name"));
        let foreign = br#"{"architecture":"vax"}"#;
        assert!(error(&tar(&[("manifest.json", manifest), ("c.json", foreign)])).contains("vax"));
    }
}
