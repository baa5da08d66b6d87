//! The form of what is kept: a line with a checksum, a line with the node's name, then a line for each thing.
//!
//! **Invariant:** things are written and read one by one: a file of a large cluster is never a tree in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::value::ValueExt;
use crate::util::files;

/// Begins the file; another version begins otherwise.
const HEAD: &str = "orch-last-known/2 ";
/// Bytes of the file. A node that would have to keep more keeps what it kept before.
pub const MAX_BYTES: usize = 64 << 20;
/// Bytes of the first line at most, with room to spare.
const HEAD_BYTES: usize = HEAD.len() + 80;
/// Begins the line of a token, where others have the plural name of a kind.
const TOKEN: &str = "token";

/// What a node knew.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Objects as JSON, by plural name.
    pub objects: BTreeMap<String, Vec<String>>,
    /// Answers to requests for tokens.
    pub tokens: BTreeMap<String, Token>,
}

/// A token that was given.
#[derive(Clone, PartialEq)]
pub struct Token {
    /// Uid of the pod.
    pub pod: String,
    /// The TokenRequest with its status.
    pub answer: Value,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("pod", &self.pod).finish_non_exhaustive()
    }
}

impl Known {
    /// The objects of a kind, as a lister has them.
    pub fn of(&self, kind: &str, pointers: &[&'static str]) -> Vec<Arc<Object>> {
        let all = self.objects.get(kind).into_iter().flatten().filter_map(|text| serde_json::from_str(text).ok());
        all.map(|value: Value| Arc::new(Object::from_value(&value, pointers))).collect()
    }
}

/// What a file says below its first line, as it is being put together.
pub struct Body(String);

impl Body {
    /// Of this node.
    pub fn new(node: &str) -> Self {
        Self(format!("{node}\n"))
    }

    /// One more object.
    pub fn object(&mut self, kind: &str, object: &Value) {
        self.line(kind, &object.to_string());
    }

    /// One more token.
    pub fn token(&mut self, key: &str, token: &Token) {
        self.line(TOKEN, &json!({"key": key, "pod": token.pod, "answer": token.answer}).to_string());
    }

    fn line(&mut self, kind: &str, json: &str) {
        // JSON on one line has no line breaks. What is too large is not kept, so there is no need to have all of it.
        if self.0.len() <= MAX_BYTES {
            self.0.extend([kind, " ", json, "\n"]);
        }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Its checksum.
    pub fn digest(&self) -> String {
        hash(self.0.as_bytes())
    }
}

fn hash(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Replaces the file, so that it is on the disk.
pub async fn write(path: PathBuf, body: Body) -> io::Result<()> {
    if body.len() > MAX_BYTES {
        return Err(io::Error::other(format!("more than {MAX_BYTES} bytes")));
    }
    let text = format!("{HEAD}{}\n{}", body.digest(), body.0);
    let written = move || files::write_atomic(&path, text.as_bytes(), files::SECRET_MODE);
    tokio::task::spawn_blocking(written).await.map_err(io::Error::other)?
}

/// What the file says; none where there is no file that is whole and this node's.
pub fn read(path: &Path, node: &str) -> Option<Known> {
    let text = match std::fs::metadata(path).map(|m| m.len()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Ok(bytes) if bytes > (MAX_BYTES + HEAD_BYTES) as u64 => Err(format!("{bytes} bytes are too many")),
        Ok(_) => std::fs::read_to_string(path).map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    match text.and_then(|text| parse(&text, node)) {
        Ok(known) => Some(known),
        Err(why) => {
            tracing::warn!("what this node knew last is lost: {}: {why}", path.display());
            None
        }
    }
}

fn parse(text: &str, node: &str) -> Result<Known, String> {
    let (head, body) = text.split_once('\n').ok_or("it is cut off")?;
    let digest = head.strip_prefix(HEAD).ok_or("it is of another version, or no such file")?;
    if hash(body.as_bytes()) != digest {
        return Err("it is torn: its checksum is another".into());
    }
    let mut lines = body.lines();
    let name = lines.next().unwrap_or_default();
    if name != node {
        return Err(format!("it is of node {name}"));
    }
    let mut known = Known::default();
    for (kind, json) in lines.filter_map(|line| line.split_once(' ')) {
        if kind != TOKEN {
            known.objects.entry(kind.to_owned()).or_default().push(json.to_owned());
            continue;
        }
        let token: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let text = |pointer: &str| token.str_at(pointer).unwrap_or_default().to_owned();
        known.tokens.insert(text("/key"), Token { pod: text("/pod"), answer: token["answer"].clone() });
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn body() -> Body {
        let mut body = Body::new("n");
        body.object("pods", &json!({"metadata": {"name": "a\nb", "namespace": "d"}}));
        body.token("k", &Token { pod: "u".into(), answer: json!({"status": {"token": "t"}}) });
        body
    }

    #[tokio::test]
    async fn what_was_written_is_read_by_its_node_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(read(&path, "n"), None);
        write(path.clone(), body()).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let known = read(&path, "n").unwrap();
        assert_eq!(known.of("pods", &[])[0].meta.name, "a\nb");
        assert_eq!(known.tokens["k"].answer.str_at("/status/token"), Some("t"));
        assert!(!format!("{:?}", known.tokens).contains("status"), "no token in a log");
        assert_eq!(read(&path, "m"), None);
    }

    #[tokio::test]
    async fn torn_files_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(path.clone(), body()).await.unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path, "n"), None, "cut at {cut}");
        }
        let mut flipped = whole.clone();
        flipped[whole.len() - 3] ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert_eq!(read(&path, "n"), None);
    }

    #[tokio::test]
    async fn what_is_too_large_leaves_the_file_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(path.clone(), body()).await.unwrap();
        let mut large = body();
        for _ in 0..=64 {
            large.object("services", &Value::String("x".repeat(1 << 20)));
        }
        assert!(large.len() < MAX_BYTES + (2 << 20), "it is not gathered to its end");
        assert!(write(path.clone(), large).await.is_err());
        assert_eq!(read(&path, "n").unwrap().objects.len(), 1);
    }
}
