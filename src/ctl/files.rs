//! Manifests: files, directories and stdin to objects.
//!
//! Rules: kubectl's `--filename` and `--recursive`; a `List` is its items.

use std::path::{Path, PathBuf};

use http::header::LOCATION;
use http::{HeaderMap, Method, Uri};
use serde_json::Value;

use super::cx::Done;
use super::fail::{Failure, fail, os};
use crate::api::codec::yaml;
use crate::api::value::ValueExt;
use crate::client::Client;
use crate::util::order::Arrange;

/// Bytes of one manifest file. A file of a thousand large CustomResourceDefinitions stays below.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Redirections of an address that are followed.
const MAX_REDIRECTS: usize = 10;
/// Directories below each other that `-R` follows.
const MAX_DEPTH: usize = 64;

/// Where objects come from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FileFlags {
    /// Files, directories, or - for standard input
    #[arg(short = 'f', long = "filename", value_delimiter = ',', value_name = "FILE")]
    pub filename: Vec<String>,
    /// A directory with a kustomization, which is built first
    #[arg(short = 'k', long, value_name = "DIR")]
    pub kustomize: Option<String>,
    /// Read directories below the directory too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// An object as it stands in a file.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The file, or `STDIN`.
    pub source: String,
    /// The object.
    pub object: Value,
}

impl FileFlags {
    /// True when nothing was named.
    pub fn is_empty(&self) -> bool {
        self.filename.is_empty() && self.kustomize.is_none()
    }

    /// Reads everything. Objects in order; what cannot be read is an error beside them, so that the rest can go on.
    pub async fn read(&self) -> (Vec<Manifest>, Vec<Failure>) {
        let (mut manifests, mut failures) = (Vec::new(), Vec::new());
        if let Some(dir) = &self.kustomize {
            if !self.filename.is_empty() {
                failures.push(Failure::Plain("only one of -f or -k can be specified".to_owned()));
                return (manifests, failures);
            }
            match super::kustomize::build(Path::new(dir), false) {
                Ok(objects) => {
                    let source = || dir.clone();
                    manifests.extend(objects.into_iter().map(|object| Manifest { source: source(), object }));
                }
                Err(failure) => failures.push(failure),
            }
            return (manifests, failures);
        }
        for name in &self.filename {
            let texts = match name.as_str() {
                "-" => stdin().map(|text| vec![("STDIN".to_owned(), text)]),
                url if is_url(url) => fetch(url).await.map(|text| vec![(url.to_owned(), text)]),
                path => self.texts(Path::new(path)),
            };
            match texts {
                Err(failure) => failures.push(failure),
                Ok(texts) => {
                    for (source, text) in texts {
                        parse(&source, &text, &mut manifests, &mut failures);
                    }
                }
            }
        }
        (manifests, failures)
    }

    fn texts(&self, path: &Path) -> Done<Vec<(String, String)>> {
        let meta = std::fs::metadata(path)
            .map_err(|_| Failure::Plain(format!("the path {:?} does not exist", path.display().to_string())))?;
        let mut files = Vec::new();
        if meta.is_dir() {
            self.walk(path, 0, &mut files)?;
            if files.is_empty() {
                fail!(
                    "error reading {:?}: recognized file extensions are [.json .yaml .yml]",
                    [path.display().to_string()]
                );
            }
        } else {
            files.push(path.to_owned());
        }
        files.into_iter().map(|file| Ok((file.display().to_string(), read_file(&file)?))).collect()
    }

    fn walk(&self, dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Done {
        if depth > MAX_DEPTH {
            fail!("{}: directories are nested more than {MAX_DEPTH} deep", dir.display());
        }
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
        entries.arrange();
        for entry in entries {
            if entry.is_dir() {
                if self.recursive {
                    self.walk(&entry, depth + 1, files)?;
                }
            } else if entry.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml") {
                files.push(entry);
            }
        }
        Ok(())
    }
}

/// True for what is read over the network.
pub fn is_url(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

/// A file, or standard input, as it is.
pub fn bytes(name: &str) -> Done<Vec<u8>> {
    match name {
        "-" => stdin().map(String::into_bytes),
        path => std::fs::read(path).map_err(|e| Failure::Plain(format!("open {path}: {}", os(&e)))),
    }
}

/// The text behind an address, wherever that sends us on to.
async fn fetch(url: &str) -> Done<String> {
    let mut at = url.to_owned();
    for _ in 0..MAX_REDIRECTS {
        let bad = |e: &dyn std::fmt::Display| Failure::Plain(format!("unable to read URL {at:?}: {e}"));
        let uri: Uri = at.parse().map_err(|e| bad(&e))?;
        let client = Client::from_config(kube::Config::new(origin(&uri).map_err(|e| bad(&e))?)).map_err(|e| bad(&e))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let answer = client.raw(Method::GET, path, HeaderMap::new(), bytes::Bytes::new()).await?;
        let next = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        if let (true, Some(next)) = (answer.status().is_redirection(), next) {
            at = if is_url(next) {
                next.to_owned()
            } else {
                format!("{}{next}", at[..at.len() - path.len()].to_owned())
            };
            continue;
        }
        if !answer.status().is_success() {
            fail!(
                "unable to read URL {at:?}, server reported {}, status code={}",
                answer.status(),
                answer.status().as_u16()
            );
        }
        return String::from_utf8(answer.into_body().to_vec()).map_err(|e| bad(&e));
    }
    fail!("unable to read URL {url:?}: it was redirected {MAX_REDIRECTS} times")
}

/// Scheme and host of an address.
fn origin(uri: &Uri) -> Result<Uri, http::Error> {
    let authority = uri.authority().map_or("", |a| a.as_str());
    Uri::builder().scheme(uri.scheme_str().unwrap_or("https")).authority(authority).path_and_query("/").build()
}

fn read_file(path: &Path) -> Done<String> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE_BYTES {
        fail!("{}: {size} bytes; a manifest has at most {MAX_FILE_BYTES}", path.display());
    }
    std::fs::read_to_string(path).map_err(|e| Failure::Plain(format!("{}: {e}", path.display())))
}

/// All of standard input.
pub fn stdin() -> Done<String> {
    use std::io::Read;
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(source: &str, text: &str, manifests: &mut Vec<Manifest>, failures: &mut Vec<Failure>) {
    match yaml::parse_all(text) {
        Err(e) => failures.push(Failure::Plain(format!("error parsing {source}: {e}"))),
        Ok(documents) => {
            for object in documents {
                match flatten(object, 0) {
                    Ok(objects) => {
                        manifests
                            .extend(objects.into_iter().map(|object| Manifest { source: source.to_owned(), object }));
                    }
                    Err(why) => {
                        failures.push(Failure::Plain(format!("error validating {source:?}: {why}")));
                    }
                }
            }
        }
    }
}

const HOW_TO_IGNORE: &str = "if you choose to ignore these errors, turn validation off with --validate=false";

/// Lists within lists that are looked into.
const MAX_LIST_DEPTH: usize = 8;

/// The items of a list, or the object itself; an object must say what it is.
fn flatten(object: Value, depth: usize) -> Result<Vec<Value>, String> {
    if !object.is_object() {
        return Err("invalid object to validate: a document is no mapping".into());
    }
    let mut missing = Vec::new();
    for field in ["apiVersion", "kind"] {
        if object.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
            missing.push(format!("{field} not set"));
        }
    }
    match &missing[..] {
        [] => {}
        [one] => return Err(format!("error validating data: {one}; {HOW_TO_IGNORE}")),
        many => return Err(format!("error validating data: [{}]; {HOW_TO_IGNORE}", many.join(", "))),
    }
    let kind = object.str_at("/kind").unwrap_or_default();
    if !kind.ends_with("List") || !object["items"].is_array() || depth > MAX_LIST_DEPTH {
        return Ok(vec![object]);
    }
    let mut object = object;
    let mut all = Vec::new();
    for item in super::builder::items_of(&mut object) {
        all.extend(flatten(item, depth + 1)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, recursive: bool) -> FileFlags {
        FileFlags { filename: vec![dir.display().to_string()], recursive, kustomize: None }
    }

    #[tokio::test]
    async fn directories_lists_and_bad_documents() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "b.yaml",
            "kind: List\napiVersion: v1\nitems:\n- {kind: Pod, apiVersion: v1}\n- {kind: Service, apiVersion: v1}\n",
        );
        write("a.json", "{\"kind\": \"Secret\", \"apiVersion\": \"v1\"}");
        write("c.yml", "kind: Pod\n---\nx: 1\n");
        write("d.txt", "not read");
        write("sub/e.yaml", "kind: Node\napiVersion: v1\n");
        let kinds = async |recursive| -> (Vec<String>, usize) {
            let (manifests, failures) = files(dir.path(), recursive).read().await;
            (manifests.iter().map(|m| m.object["kind"].as_str().unwrap().to_owned()).collect(), failures.len())
        };
        assert_eq!(kinds(false).await, (vec!["Secret".into(), "Pod".into(), "Service".into()], 2));
        assert_eq!(kinds(true).await.0.last().unwrap(), "Node");
    }

    #[tokio::test]
    async fn what_is_not_there_is_told() {
        let (_, failures) = files(Path::new("/nonexistent/x.yaml"), false).read().await;
        assert_eq!(failures[0].to_string(), "error: the path \"/nonexistent/x.yaml\" does not exist");
    }
}
